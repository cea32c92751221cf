"""The pages that list the modules list all of them."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_every_module_is_listed(page: str) -> None:
    text = (ROOT / page).read_text()
    modules = [path for package in ("vqa", "producer", "workers") for path in (ROOT / package).rglob("*.py")]
    missing = [path.name for path in modules if path.name != "__init__.py" and path.name not in text]
    assert missing == []


def test_no_module_is_longer_than_a_room() -> None:
    for package in ("vqa", "producer", "workers", "bench", "training"):
        for path in (ROOT / package).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 250, path
