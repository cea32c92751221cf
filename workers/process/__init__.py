"""A worker process from start to end."""
