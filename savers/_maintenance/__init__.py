"""What is done to a store between jobs: inspect it, verify every byte, finish what a crash left.

The command line shows it; all of it but `recover` only reads.
"""
