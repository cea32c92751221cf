"""Metrics for Prometheus: what there is, and the server that shows it."""
