"""The spans of this worker's attempts; imported only where the worker traces."""
