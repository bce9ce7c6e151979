"""Where a packed model is computed, and by how many threads."""

from typing import Literal

Device = Literal["cpu", "cuda"]

MOST_THREADS = 256
"""Threads that may compute together; the native library has the same bound (native/api.cpp, kMostThreads)."""
