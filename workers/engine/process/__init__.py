"""Runs an engine in a process of its own, so that a worker's threads never keep it from launching work."""
