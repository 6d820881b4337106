"""Reading back what was saved: a lazy xarray Dataset, with and without an event loop.

Requests go out side by side; zarr and xarray decode what comes back; the ledger says which cells
are missing.
"""
