"""Translation: sentences in one language, each with its translation."""
