"""What values are, where they lie in an array, and the one copy of what a caller hands over.

Dimensions, labels, regions and chunk sizes are worked out here from plain values: nothing in this
group knows of stores, ledgers or formats.
"""
