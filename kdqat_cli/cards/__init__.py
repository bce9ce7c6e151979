"""The model card that stands beside an export."""
