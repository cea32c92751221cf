"""Bulk submission: rows onto the queue, their answers into a file, gone on with wherever it ended."""
