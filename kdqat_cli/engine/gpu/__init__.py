"""Runs a packed model on a GPU: 2-bit codes in memory, and integer products."""
