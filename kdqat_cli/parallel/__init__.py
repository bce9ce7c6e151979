"""Runs many stages of a DVC pipeline at once: DVC's graph and commits, the processes, and the loop between them."""
