"""Families of networks: where their parts lie, how they are quantised, observed and loaded."""
