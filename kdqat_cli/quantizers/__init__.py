"""Weights and activations to levels and scales, and the layers that do it."""
