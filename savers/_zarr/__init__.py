"""Zarr v3 and v2: metadata documents, chunk keys, and what xarray reads from them."""
