"""HDF5: all arrays in one file, put together from its last version and what the ledger adds."""
