"""The wheel and the source distribution, each built once if asked for, and a clean environment with the wheel."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.package.clean_venv import CleanVenv

ROOT = Path(__file__).parents[2]


def build(source: Path, into: Path, target: str) -> Path:
    """Build a `wheel` or `sdist` in a source tree; return the file."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(into), "--target", target]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    [built] = into.iterdir()
    return built


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="session")
def producer_venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> CleanVenv:
    """What `pip install vqa-queue` makes."""
    return CleanVenv(tmp_path_factory.mktemp("producer") / "venv", wheel)
