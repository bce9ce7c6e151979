"""Levels of quantised weights to bytes, and back."""
