"""Ours beside the peers, on the same work: `make bench`. Start reading at `benchmarks.run`."""
