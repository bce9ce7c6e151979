"""What lies on disk between stages: folders, locks, records, and where results lie."""
