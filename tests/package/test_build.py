"""The wheel holds the packages with all that they need, and the source distribution what its Makefile needs."""

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.package.conftest import ROOT, build

PACKAGES = ("vqa", "producer", "workers")
#: in the source distribution besides the packages
NEEDED = {
    "CONTRIBUTING.md",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "constraints.txt",
    "constraints-dev.txt",
    "docker-compose.yml",
    "docs/operations.md",
    "examples/questions.jsonl",
    "examples/images/rocket.jpg",
    "models/tiny-vl/model-00001-of-00002.safetensors",
    "tests/conftest.py",
    "vqa/ledger/lua/ledger.lua",
}
#: bytes; the code alone has less than 1 MB, packed
LARGEST_WHEEL, LARGEST_FILE = 2_000_000, 300_000


def files_of_packages() -> set[str]:
    """Return the files of the packages as they are in the checkout."""
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in paths if path.suffix != ".pyc" and path.name != ".DS_Store"}


def contents(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def names_in(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_the_wheel_holds_all_files_of_the_packages_and_nothing_else(wheel: Path) -> None:
    packed = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert packed == files_of_packages()


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < LARGEST_WHEEL
    assert {name: len(data) for name, data in contents(wheel).items() if len(data) > LARGEST_FILE} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_says_that_it_is_typed(wheel: Path, package: str) -> None:
    assert f"{package}/py.typed" in contents(wheel)


def test_the_source_distribution_holds_what_its_makefile_needs(sdist: Path) -> None:
    assert names_in(sdist) >= NEEDED | files_of_packages()


def test_the_source_distribution_holds_nothing_that_git_ignores(sdist: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("a tree without git says not what is ignored")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    known = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    assert names_in(sdist) - {*known, "PKG-INFO"} == set()


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [tree] = tmp_path.iterdir()
    again = build(tree, tmp_path / "again", "wheel")
    assert again.name == wheel.name
    assert digests(again) == digests(wheel)


def digests(wheel: Path) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents(wheel).items()}


def test_the_index_will_show_the_readme(wheel: Path, sdist: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", wheel, sdist]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
