"""The training loop, its optimisers and batches."""
