"""Writes and reads packed checkpoints, and loads them with transformers."""
