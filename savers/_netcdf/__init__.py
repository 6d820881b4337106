"""NetCDF-4: an HDF5 file with the dimensions and attributes that NetCDF tools and CF expect."""
