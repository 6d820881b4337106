"""What append, overwrite, update and a job mean for arrays in chunks, whatever the format.

A plan is made of every call before anything changes: new arrays, regions, labels. The session
carries it out.
"""
