"""Lets schemathesis draw requests from the OpenAPI document of a real gateway, and check the answers by it."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.clients.site import Site, open_site
from tests.producer.gateway.openapi.hooks import FILE
from tests.worker_process import ROOT

_CONFIGURATION = Path(__file__).parent / "schemathesis.toml"

#: the input of batches: one row, answered without a worker
_ROW = (
    b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", '
    b'"body": {"model": "vqa-echo", "messages": [{"role": "user", "content": "?"}]}}'
)


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """What a run says."""

    status: int
    output: str
    gateway_log: str

    @property
    def cases(self) -> int:
        found = re.search(r"^ +(\d+) generated", self.output, re.MULTILINE)
        return int(found[1]) if found else 0

    @property
    def is_fine(self) -> bool:
        return self.status == 0 and "unexpected error" not in self.gateway_log


def fuzz(folder: Path, *arguments: str) -> Fuzzed:
    """Start a gateway with API keys and an echo worker, and `schemathesis run` with the arguments against it."""
    with open_site(folder, {"VQA_GATEWAY_TEST_MODELS": "1"}, VQA_SLOTS="64") as site:
        done = _run(site, folder, arguments)
        return Fuzzed(done.returncode, done.stdout, site.gateway.log.read_text())


def _run(site: Site, folder: Path, arguments: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    client = site.client()
    file = client.files.create(file=("rows.jsonl", _ROW), purpose="batch")
    command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(_CONFIGURATION), "run"]
    command += [f"{site.gateway.url}/openapi.json", "--header", f"Authorization: Bearer {client.api_key}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), FILE: file.id, "COLUMNS": "120"}
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
