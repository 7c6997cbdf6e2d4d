"""Corpora, whatever their format: The Well's HDF5, what xarray reads, classes of one's own, prepared datasets."""
