"""Packed checkpoints, and loading them with transformers."""
