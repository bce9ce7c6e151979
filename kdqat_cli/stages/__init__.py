"""The stages: files and configuration in, one folder out."""
