"""The commands. Each one reads its options, calls the stage of the same name and prints the result by output.py."""
