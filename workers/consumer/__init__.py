"""What is popped from Celery's lists, before Celery sees it."""
