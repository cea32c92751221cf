"""Finds words of lists in texts, however they are written, and masks, flags or refuses them. Knows nothing of jobs."""
