"""`celery -A bench.engine.shape_worker`: a worker like any other, but for its weights, which are drawn at random."""

from __future__ import annotations

from workers.process.lifecycle import make_worker_app

app = make_worker_app("bench.engine.shape_engine:make_engine")
