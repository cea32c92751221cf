"""`make demo`, as the README's first command."""

import os
import signal
import subprocess
import time

import pytest
import requests

from tests.worker_process import ROOT

pytestmark = pytest.mark.timeout(400)


def start(*arguments: str) -> "subprocess.Popen[str]":
    # a Python with the project in it is what `make` would make: what is tested is the demo, not pip
    command = ["make", *arguments] if (ROOT / ".venv" / ".installed").exists() else VQA[bool(arguments[1:])]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


VQA = {
    False: ["python", "-m", "producer.cli.main", "demo"],
    True: ["python", "-m", "producer.cli.main", "demo", "--exit"],
}


def children_of(group: int) -> list[str]:
    found = subprocess.run(["ps", "-o", "args=", "-g", str(group)], capture_output=True, text=True, check=False)
    return found.stdout.splitlines()


def test_it_answers_every_question_as_expected_and_ends_with_0() -> None:
    demo = start("demo", "DEMO_EXIT=1")
    said, _ = demo.communicate(timeout=300)
    assert demo.returncode == 0, said
    assert "15 of 15 as expected" in said
    assert "Flower: ready at http://127.0.0.1:" in said
    assert "Gateway: ready at http://127.0.0.1:" in said
    assert all(len(line) <= 80 for line in said.splitlines())


def test_ctrl_c_after_the_table_stops_everything() -> None:
    demo = start("demo")
    assert demo.stdout is not None
    lines = []
    until = time.monotonic() + 300
    for line in demo.stdout:
        lines.append(line)
        assert time.monotonic() < until
        if "Ctrl-C stops everything" in line:
            break
    assert any("15 of 15 as expected" in line for line in lines), lines
    # what it prints can be copied into another terminal
    [ask, status] = [line.strip() for line in lines if line.startswith("  VQA_REDIS_URL=")]
    for command, answer in ((ask, "red\n"), (status, "demo-")):
        ran = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert answer in ran.stdout, ran
    [page] = [line.split()[-1] for line in lines if line.startswith("Ask in a browser: ")]
    assert "<title>Ask about an image</title>" in requests.get(page, timeout=30).text
    # as a terminal does: to make and to the demo at once; make has its own status for it
    os.killpg(demo.pid, signal.SIGINT)
    demo.communicate(timeout=60)
    assert children_of(demo.pid) == []
