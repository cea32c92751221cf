"""Bulk submission: send the rows of an input as jobs, write their results to files, resume after any interruption."""
