"""Clients of the queue: `Client` and `AsyncClient`, and what both are made of."""
