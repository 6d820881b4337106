"""What is saved, and who may say so.

Records go in at the end of a stream, and the state of a dataset is what they add up to. A stream
lies in a file or in objects of a bucket; a lock sees to it that one driver at a time appends.
"""
