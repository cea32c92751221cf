"""Connections to Redis, and what its errors and outages mean."""
