"""The distillation losses."""
