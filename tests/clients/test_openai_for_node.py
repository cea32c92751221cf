"""tests/clients/node: OpenAI's client for Node does with a gateway what it does with OpenAI."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from producer.gateway.access.caller import Allowance
from producer.gateway.access.keys import Keys
from tests.producer.gateway.gateway_process import GatewayProcess
from tests.redis_server import RedisServer
from tests.worker_process import ROOT, WorkerProcess

SCRIPT = "openai.test.mjs"
IMAGE = ROOT / "examples" / "images" / "shape-07.png"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of the folder with the locked package."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    assert not missing, f"not installed: {', '.join(missing)}; apt-get install nodejs npm (Node 20 or later)"
    folder = tmp_path / "client"
    shutil.copytree(Path(__file__).parent / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    npm = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert npm.returncode == 0, npm.stderr
    return folder


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[tuple[GatewayProcess, Keys]]:
    """A gateway that demands keys, with an echo worker that gets ready meanwhile, on a Redis of their own."""
    with RedisServer(tmp_path / "redis") as server, Redis.from_url(server.url) as redis:
        keys = Keys(redis)
        keys.create("the first")
        worker = WorkerProcess(server.url, "echo", tmp_path / "worker.log", VQA_SLOTS="32")
        gateway = GatewayProcess(server.url, tmp_path / "gateway")
        try:
            yield gateway, keys
        finally:
            gateway.stop()
            worker.stop()


def test_openais_client_for_node(gateway: tuple[GatewayProcess, Keys], installed: Path) -> None:
    process, keys = gateway
    process.wait_ready()
    variables = {
        "VQA_TEST_URL": process.url,
        "VQA_TEST_IMAGE": str(IMAGE),
        "VQA_TEST_KEY": keys.create("whole")[0],
        "VQA_TEST_INTERACTIVE_KEY": keys.create("interactive", lanes=("interactive",))[0],
        "VQA_TEST_LIMITED_KEY": keys.create("limited", allowance=Allowance(requests_per_minute=1))[0],
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")} | variables
    command = ["node", "--test", "--test-reporter=tap", SCRIPT]
    node = subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True, timeout=120)
    written = (installed / SCRIPT).read_text().count("\ntest(")
    assert node.returncode == 0, f"{node.stdout}\n{node.stderr}\n{process.log.read_text()}"
    assert re.search(rf"^# pass {written}$", node.stdout, re.MULTILINE), node.stdout
