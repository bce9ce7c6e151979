"""Translation tasks: parallel sentences of two languages."""
