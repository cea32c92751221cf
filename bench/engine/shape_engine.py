"""Makes the engine of `bench.engine.shape_worker`, in its process.

BENCH_ENGINE and BENCH_ROUTING say which engine and which routing; VQA_MODEL is a folder by `shape30b.write_folder`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from bench.engine import shape30b
from bench.engine.engines import Once, opened
from workers.engine.base import Engine
from workers.engine.settings import EngineSettings

#: until the process ends
_OPEN = ExitStack()


def make_engine(settings: EngineSettings, slots: int) -> Engine:
    named: Any = (os.environ["BENCH_ENGINE"], os.environ["BENCH_ROUTING"])
    engine, routing = named
    return _OPEN.enter_context(opened(engine, settings, slots, routing, Once(shape30b.load)))
