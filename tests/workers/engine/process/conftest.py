"""Engines in processes of their own, which end with their test."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import pytest

from tests.workers.engine.conftest import SOON, Crashes
from tests.workers.engine.process.fake_engine import FACTORY
from workers.engine.process.engine import EngineProcess
from workers.engine.settings import EngineSettings


class StartFake(Protocol):
    def __call__(self, factory: str = "make_engine", **settings: Any) -> EngineProcess: ...


@pytest.fixture
def make_fake() -> Iterator[StartFake]:
    """Makes an engine that is not started, with a function of `fake_engine`."""
    engines = []

    def make(factory: str = "make_engine", pass_fds: Sequence[int] = (), **settings: Any) -> EngineProcess:
        engines.append(EngineProcess(EngineSettings(**settings), 4, f"{FACTORY}:{factory}", pass_fds))
        return engines[-1]

    yield make
    for engine in engines:
        engine.stop()


@pytest.fixture
def start_fake(make_fake: StartFake, crashes: Crashes) -> StartFake:
    def start(factory: str = "make_engine", **settings: Any) -> EngineProcess:
        engine = make_fake(factory, **settings)
        engine.start(lambda error, ids: crashes.append((error, tuple(ids))))
        return engine

    return start


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
