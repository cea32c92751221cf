"""Starts one worker process per card and keeps it running."""
