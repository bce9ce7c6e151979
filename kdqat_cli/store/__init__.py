"""The files between stages: output folders, locks, records, and the default places of results."""
