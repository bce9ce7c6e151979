"""Integer inference on packed weights: a native library, its model, and torch where the library is not."""
