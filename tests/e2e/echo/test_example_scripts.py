"""The scripts under examples/, as a user runs them."""

import json
import os
import subprocess
import sys

import pytest

from producer.demo.redis_server import free_port
from tests.worker_process import ROOT

WAIT_S = 60.0


@pytest.mark.parametrize("script", ["caption_folder.py images", "receipts.py images/colour-01.jpg"])
def test_the_example_scripts_run(script: str, redis_url: str) -> None:
    name, argument = script.split()

    ran = subprocess.run(
        [sys.executable, "-W", "error", f"examples/{name}", f"examples/{argument}"],
        cwd=ROOT,
        env=os.environ | {"VQA_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )

    assert ran.returncode == 0, ran.stderr
    assert "colour-01.jpg" in ran.stdout


def test_the_example_for_a_folder_says_that_there_is_none() -> None:
    ran = subprocess.run(
        [sys.executable, "examples/caption_folder.py", "nowhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert ran.returncode == 2
    assert ran.stderr.endswith("error: nowhere is not a folder\n")


@pytest.mark.parametrize("script", ["caption_folder.py examples/images", "receipts.py examples/images/colour-01.jpg"])
def test_an_example_script_says_in_one_line_that_redis_does_not_answer(script: str) -> None:
    name, argument = script.split()
    variables = {"VQA_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0", "VQA_REDIS_TIMEOUT_S": "1"}
    ran = subprocess.run(
        [sys.executable, f"examples/{name}", argument],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("QueueUnavailable: ")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        "examples/caption_folder.py examples/images",
        "examples/receipts.py examples/images/*.jpg",
        "examples/compare_models.py examples/questions.jsonl $VQA_REDIS_URL $VQA_REDIS_URL",
    ],
)
def test_an_example_script_ends_quietly_when_its_reader_has_gone(command: str, redis_url: str) -> None:
    ran = subprocess.run(
        f"{sys.executable} -W error {command} | true",
        shell=True,
        cwd=ROOT,
        env=os.environ | {"VQA_REDIS_URL": redis_url},
        stderr=subprocess.PIPE,
        text=True,
        timeout=WAIT_S,
    )

    assert not [line for line in ran.stderr.splitlines() if not line.startswith("batch_")]


def test_two_models_are_compared(redis_url: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "examples/compare_models.py", "examples/questions.jsonl", redis_url, redis_url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )

    count = len([json.loads(line) for line in (ROOT / "examples/questions.jsonl").read_text().splitlines()])
    assert ran.stdout == f"the same answer to {count} of {count} questions\n", ran.stderr
