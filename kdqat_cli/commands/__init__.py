"""The commands: each reads its options, calls the stage of its name and hands the result to output.py."""
