"""Uploaded files: their records in Redis, and their content in Redis or in a folder or object store."""
