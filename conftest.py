"""For every test: the `gpu` mark is deselected on a machine without a card."""

import pytest


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
