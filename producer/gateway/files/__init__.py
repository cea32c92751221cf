"""Uploaded files, kept in Redis, a folder or an object store."""
