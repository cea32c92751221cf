"""Batches of the HTTP API: they run over the queue's own batches, and any gateway process continues them."""
