"""From a chunk of values to the bytes of one stored object, and back.

The common codecs are called directly, on threads of ours; any other combination goes through zarr,
or through zarrs where that is asked for. Nothing in this group knows where the bytes go.
"""
