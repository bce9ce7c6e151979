"""Compares the speed and memory of engines."""
