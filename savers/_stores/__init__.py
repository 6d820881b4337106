"""What a path or URL means, and bytes under keys there.

A store is a local folder, a mapping, a bucket, or one file that is replaced as a whole. Nothing in
this group knows what the bytes are.
"""
