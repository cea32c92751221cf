"""Consumes Celery's lists: which list is popped next, and sanitizing messages before Celery sees them."""
