"""What `pip install vqa-queue` makes, in a clean environment: the command works, and types are seen."""

import json
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.package.clean_venv import CleanVenv, bare_venv
from tests.worker_process import StartWorker

HEAVY = {"torch", "transformers", "accelerate", "numpy"}

USES = """\
from producer.ids import owner_tag
from vqa.log.output import Output
from workers.engine.image import RGBImage

reveal_type(owner_tag(None))
reveal_type(RGBImage(1, 1, b"", "").width)
Output(1, 2, 3, 4, 5, 6)
"""


def test_a_producer_needs_no_torch(producer_venv: CleanVenv) -> None:
    assert producer_venv.names & HEAVY == set()
    assert {"celery", "redis", "pydantic"} <= producer_venv.names


def test_the_command_shows_its_help_and_its_version(producer_venv: CleanVenv, wheel: Path, tmp_path: Path) -> None:
    shown = producer_venv.run("vqa", "--help", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "submit" in shown.stdout
    assert producer_venv.run("vqa", "--version", cwd=tmp_path).stdout == f"vqa {wheel.name.split('-')[1]}\n"


def test_questions_are_submitted_and_answered(
    producer_venv: CleanVenv, start_worker: StartWorker, redis_url: str, tmp_path: Path
) -> None:
    start_worker("echo")
    image = Path(__file__).parents[2] / "examples" / "images" / "rocket.jpg"
    rows = ({"id": f"row-{row}", "image": str(image), "question": f"What is {row}?"} for row in range(3))
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["vqa", "submit", "questions.jsonl", "-o", "answers.jsonl", "--redis-url", redis_url]
    submitted = producer_venv.run(*command, cwd=tmp_path)
    assert submitted.returncode == 0, submitted.stderr
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert sorted(answer["id"] for answer in answers) == ["row-0", "row-1", "row-2"]


def test_a_worker_says_which_extra_it_needs(producer_venv: CleanVenv, tmp_path: Path) -> None:
    started = producer_venv.run("vqa", "worker", "--cards", "cpu", cwd=tmp_path)
    assert started.returncode != 0
    assert "needs the extra `worker`" in started.stderr


def test_mypy_sees_the_types_of_the_installed_packages(wheel: Path, tmp_path: Path) -> None:
    # without what the wheel requires, all of which mypy would read
    python, site = bare_venv(tmp_path / "venv")
    ZipFile(wheel).extractall(site)
    (tmp_path / "uses.py").write_text(USES)
    command = ["-m", "mypy", "--strict", "--python-executable", python, "--cache-dir", tmp_path / "cache"]
    checked = subprocess.run([sys.executable, *command, "uses.py"], cwd=tmp_path, capture_output=True, text=True)
    lines = [line.partition(": ")[2] for line in checked.stdout.splitlines() if line.startswith("uses.py")]
    assert lines == [
        'note: Revealed type is "str"',
        'note: Revealed type is "int"',
        'error: Too many arguments for "Output"  [call-arg]',
    ], checked.stdout


@pytest.mark.parametrize("package", ["vqa", "producer", "workers"])
def test_nothing_comes_from_the_checkout(producer_venv: CleanVenv, tmp_path: Path, package: str) -> None:
    found = producer_venv.run("python", "-c", f"import {package}; print({package}.__file__)", cwd=tmp_path)
    assert found.stdout.startswith(str(producer_venv.python.parents[1])), found.stderr
