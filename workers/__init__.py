"""The workers: one Celery process per card, each with one loaded model."""
