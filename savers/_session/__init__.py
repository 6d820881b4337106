"""The one owner of a dataset in this process: stage, commit, publish, recover.

A commit puts the chunks that are complete into the store, and only then the record into the ledger;
publishing shows readers what is committed.
"""
