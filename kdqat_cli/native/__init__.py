"""The C++ library and its Python bindings."""

MOST_THREADS = 256
"""The largest number of threads; the library has the same limit (src/api.cpp, kMostThreads)."""
