"""Encoded images: read from what a caller has, checked by their header, and kept in Redis. Decodes no pixels."""
