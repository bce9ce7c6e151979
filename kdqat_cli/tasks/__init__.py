"""Tasks: what is learnt, from which rows, and how it is scored."""
