"""Reads requests: their bodies, forms and connections; names of our own headers."""
