"""Weights to codes and scales, activations to 8 bits, and the layers that do it."""
