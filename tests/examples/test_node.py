"""examples/node: a program without Python asks through the inbox, with the npm package redis."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from producer import Client
from tests.redis_server import RedisServer
from tests.worker_process import ROOT, StartWorker

EXAMPLE = ROOT / "examples" / "node"
IMAGE = ROOT / "examples" / "images" / "shape-07.png"
QUESTION = "What colour is the triangle?"

Ask = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with the locked packages."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    assert not missing, f"not installed: {', '.join(missing)}; apt-get install nodejs npm (Node 20 or later)"
    folder = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    npm = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert npm.returncode == 0, npm.stderr
    return folder


def started(installed: Path, url: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["node", "ask.mjs", *arguments],
        cwd=installed,
        env=os.environ | {"VQA_REDIS_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def ask(installed: Path, redis_url: str) -> Ask:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        process = started(installed, redis_url, *arguments)
        stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    return run


def test_it_prints_the_answer_or_the_error(
    ask: Ask, start_worker: StartWorker, tmp_path: Path, redis: Redis, redis_url: str
) -> None:
    start_worker()
    answered = ask(str(IMAGE), QUESTION)
    assert (answered.returncode, answered.stderr) == (0, "")
    with Client(redis_url=redis_url) as client:
        assert answered.stdout == client.ask(IMAGE, QUESTION).text + "\n"
    whole = json.loads(ask("--json", "--id", "named", "--lane", "bulk", str(IMAGE), QUESTION).stdout)
    assert whole["id"] == "named"
    assert whole["images"][0]["source_width"] == 210
    (tmp_path / "text.png").write_text("no image")
    bad = ask(str(tmp_path / "text.png"), QUESTION)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.startswith("BadImage: ")
    refused = ask("--lane", "fast", str(IMAGE), QUESTION)
    assert refused.returncode == 1
    assert refused.stderr.startswith("InvalidJob: lane: ")
    assert redis.xlen("vqa:inbox") == 0


def test_it_asks_again_by_the_id_where_nobody_answered_yet(ask: Ask, start_worker: StartWorker) -> None:
    early = ask("--id", "early", "--wait", "0.5", str(IMAGE), QUESTION)
    assert early.returncode == 75
    assert early.stderr == "no answer within 0.5 s (job early)\n"
    start_worker()
    later = ask("--id", "early", str(IMAGE), QUESTION)
    assert later.returncode == 0, later.stderr
    assert later.stdout.startswith("echo:")


def test_a_lost_redis_is_one_line(installed: Path, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server, Redis.from_url(server.url) as redis:
        process = started(installed, server.url, "--id", "a", str(IMAGE), QUESTION)
        until = time.monotonic() + 30
        while not redis.xlen("vqa:inbox"):
            assert time.monotonic() < until
            time.sleep(0.02)
        server.kill()
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 75
    assert re.fullmatch(r"Redis: .+ \(job a\)\n", stderr)


def test_wrong_usage_is_told(ask: Ask) -> None:
    assert ask("--help").stdout.startswith("usage: node ask.mjs")
    for arguments in (("--wait", "soon", "a", "b"), ("--colour",), ("/nowhere.png", "?")):
        wrong = ask(*arguments)
        assert wrong.returncode == 2
        assert wrong.stderr.count("\n") == 1


def test_the_lockfile_names_no_registry() -> None:
    lock = json.loads((EXAMPLE / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages
    for package in packages:
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package
