"""Converts levels of quantised weights to bytes and back."""
