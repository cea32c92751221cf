"""Answers: one Celery worker process a card, each with one loaded model."""
