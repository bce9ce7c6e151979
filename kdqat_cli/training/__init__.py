"""The training loop, its optimisers and its batches."""
