"""Labelled output of running jobs: written in the background, by several writers on one store.

Every writer has a record stream of its own and claims the chunks that hold values of several.
Chunks go into the store in order, within a budget of bytes.
"""
