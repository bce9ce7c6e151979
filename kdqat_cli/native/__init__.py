"""The C++ library and its bindings; of kdqat they import only the errors."""

MOST_THREADS = 256
"""Threads that may compute together; the library has the same bound (src/api.cpp, kMostThreads)."""
