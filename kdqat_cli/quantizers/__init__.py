"""Quantises weights and activations to levels and scales; the quantised layers."""
