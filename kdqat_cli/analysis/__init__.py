"""Measures what quantisation changed, draws figures, makes the report page, and reads published results."""
