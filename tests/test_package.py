"""The source distribution holds what its Makefile needs."""

import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
NEEDED = {
    "Makefile",
    "README.md",
    "constraints.txt",
    "constraints-dev.txt",
    "docker-compose.yml",
    "examples/questions.jsonl",
    "examples/images/rocket.jpg",
    "models/tiny-vl/model-00001-of-00002.safetensors",
    "tests/conftest.py",
    "vqa/ledger/lua/ledger.lua",
}


def test_the_source_distribution_holds_what_its_makefile_needs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    [built] = tmp_path.iterdir()
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= NEEDED
