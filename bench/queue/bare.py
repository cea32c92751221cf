"""The rival of the queue benchmark: a plain Celery worker with a task that does nothing.

`python -m bench.queue.bare URL` runs it with the pool, the late acknowledgement and the events of our workers.
"""

from __future__ import annotations

import sys

from celery import Celery

#: as a worker with 16 slots has
THREADS = 20


def make_bare_app(url: str) -> Celery:
    """Build the app of Celery's "First Steps", with our workers' pool."""
    app = Celery("bare", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        worker_pool="threads",
        worker_concurrency=THREADS,
        worker_send_task_events=True,
        task_default_queue="bare",
        broker_connection_retry_on_startup=True,
    )

    @app.task(name="bare.answer", shared=False)  # type: ignore[untyped-decorator]  # celery has no types
    def answer(question: str) -> str:
        return question

    return app


if __name__ == "__main__":
    make_bare_app(sys.argv[1]).worker_main(
        ["worker", "-n", "bare@%h", "-l", "WARNING", "--without-gossip", "--without-mingle"]
    )
