"""Watching the queue: `vqa doctor`, health checks and Flower."""
