"""Families of networks: the names of their parts, and how they are quantised, observed and loaded."""
