"""Losses, captures, and the one training loop."""
