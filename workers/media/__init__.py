"""Decodes encoded images to RGB pixels in child processes."""
