"""Virtual environments with the built wheel and what it asks for, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path
from zipfile import Path as ZipPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


class CleanVenv:
    """Has the distributions that the wheel requires, with those that they require, and the wheel.

    They are copied from this environment, which has the versions of the constraints: no download, so the test says the
    same on a machine without a network. What the wheel's metadata leaves out is not there.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.python, self._site = bare_venv(folder)
        self.names = {canonicalize_name(each.name) for each in required(wheel)}
        for name in self.names:
            self._copy(distribution(name))
        command = [sys.executable, "-m", "pip", "--python", self.python, "install", "--no-index", "--no-deps"]
        subprocess.run([*command, "--no-compile", wheel], check=True, capture_output=True, text=True)

    def run(self, *command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment's `bin`, away from the checkout."""
        program, *arguments = command
        return subprocess.run(
            [self.python.parent / program, *arguments], capture_output=True, text=True, timeout=100, **options
        )

    def _copy(self, found: Distribution) -> None:
        for file in found.files or ():
            source, target = Path(str(file.locate())), self._site / file
            # scripts lie outside the folder of packages; what is compiled is used while the times stay, and may be lost
            if ".." not in file.parts and (source.suffix != ".pyc" or source.exists()):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)


def bare_venv(folder: Path) -> tuple[Path, Path]:
    """Make a virtual environment without anything; return its Python and its folder of packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return folder / "bin" / "python", folder / "lib" / version / "site-packages"


def required(wheel: Path) -> Iterator[Requirement]:
    """Yield what a wheel requires on this machine, and what that requires, each name and extra once."""
    [metadata] = (path for path in ZipPath(wheel).iterdir() if path.name.endswith(".dist-info"))
    seen = set[tuple[str, str]]()
    todo = [*_requires(PathDistribution(metadata), ())]
    while todo:
        requirement = todo.pop()
        wanted = {(canonicalize_name(requirement.name), extra) for extra in ("", *requirement.extras)}
        if not wanted <= seen:
            seen |= wanted
            yield requirement
            todo += _requires(distribution(requirement.name), requirement.extras)


def _requires(found: Distribution, extras: Iterable[str]) -> Iterator[Requirement]:
    for line in found.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": each}) for each in ("", *extras)):
            yield requirement
