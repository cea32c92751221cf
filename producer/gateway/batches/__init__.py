"""Batches over HTTP: an uploaded file becomes a detached batch of the queue, and its outcomes are read as files."""
