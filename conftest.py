"""For every test: the `gpu` mark is deselected on a machine without a card; properties have no limit of time."""

import gc
import os
import sys
from collections.abc import Generator

import pytest
from hypothesis import settings

# Containers often forbid bytecode. The hundreds of processes that tests start would each compile our 200 modules.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# on a busy machine an example takes whatever it takes
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while tests are collected: what is made then stays, and each run would go through it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _cards() -> int:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    return int(pynvml.nvmlDeviceGetCount())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _cards():
        config.hook.pytest_deselected(items=marked)
        items[:] = [item for item in items if item not in marked]
