"""Offline: simulations in The Well's HDF5 format become shards on any storage. Imports no torch."""
