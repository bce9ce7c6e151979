"""The packed model on a GPU: 2-bit codes in its memory, products in integers."""
