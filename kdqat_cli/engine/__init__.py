"""Integer inference on packed weights, by the native library, or by torch if the library is missing."""
