"""Small solvers of our own that write real simulations in The Well's HDF5 format: the embedded corpus."""
