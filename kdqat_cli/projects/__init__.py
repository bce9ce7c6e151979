"""New projects: what `kdqat init` finds in a user's data, and the files that it writes."""
