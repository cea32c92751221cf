"""Images of callers: where they are, and how their bytes are read."""
