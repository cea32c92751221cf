"""The Celery app of `celery -A workers.app worker`."""

from workers.process.lifecycle import make_worker_app

app = make_worker_app()
