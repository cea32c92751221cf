"""`celery -A bench.shape_worker`: a worker like any other, but for its weights, which are drawn at random.

BENCH_ENGINE and BENCH_ROUTING say which engine and which routing; VQA_MODEL is a folder by `shape30b.write_folder`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from bench import shape30b
from bench.engines import Once, opened
from workers.engine.base import Engine
from workers.engine.settings import EngineSettings
from workers.process import assembly
from workers.process.lifecycle import make_worker_app

#: until the process ends
_OPEN = ExitStack()


def _make_engine(settings: EngineSettings, slots: int) -> Engine:
    named: Any = (os.environ["BENCH_ENGINE"], os.environ["BENCH_ROUTING"])
    engine, routing = named
    return _OPEN.enter_context(opened(engine, settings, slots, routing, Once(shape30b.load)))


assembly.make_engine = _make_engine  # type: ignore[attr-defined]
app = make_worker_app()
