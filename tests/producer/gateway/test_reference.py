"""The commands of the API's reference, run by a shell as they stand there."""

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from producer.gateway.chat.request_schema import EXAMPLE_IMAGE
from producer.gateway.openapi.curl_examples import CURL
from tests.producer.gateway.gateway_process import GatewayProcess

Shell = Callable[[str], str]

#: curl's exit status after a response with an error
FAILED = 22


def test_every_endpoint_of_the_document_has_a_command(http: httpx2.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    assert {(method, path) for path, operations in paths.items() for method in operations} == set(CURL)
    page = http.get("/docs").text
    assert all(path in page for path in paths)


@pytest.fixture(scope="module")
def shell(gateway: GatewayProcess, http: httpx2.Client, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Run a command in a folder with the files, and with the ids, that the commands name; return curl's output."""
    folder = tmp_path_factory.mktemp("shell")
    (folder / "cat.jpg").write_bytes(base64.b64decode(EXAMPLE_IMAGE.partition(",")[2]))
    (folder / ".curlrc").write_text("silent\nfail-with-body\nmax-time = 30\n")
    body = {"model": "vqa-echo", "messages": [{"role": "user", "content": "?"}]}
    row = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (folder / "questions.jsonl").write_text(json.dumps(row) + "\n")

    def run(command: str) -> str:
        variables = {"GATEWAY": gateway.url, "VQA_API_KEY": "any", "HOME": str(folder), **_ids(http, folder)}
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"],
            cwd=folder, env={"PATH": os.environ["PATH"]} | variables, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode in (0, FAILED), (command, done.stderr)
        return done.stdout

    return run


def _ids(http: httpx2.Client, folder: Path) -> dict[str, str]:
    """Make what the commands name."""
    image = http.post("/v1/images", files={"file": (folder / "cat.jpg").read_bytes()}).json()["id"]
    content = {"file": ("questions.jsonl", (folder / "questions.jsonl").read_bytes())}
    file = http.post("/v1/files", files=content, data={"purpose": "batch"}).json()["id"]
    batch = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    body = {"image": image, "question": "?"}
    return {
        "IMAGE": image,
        "FILE": file,
        "BATCH": http.post("/v1/batches", json=batch).json()["id"],
        "JOB": http.post("/v1/ask", json=body, headers={"Prefer": "respond-async"}).json()["id"],
        "MODEL": http.get("/v1/models").json()["data"][0]["id"],
    }


@pytest.mark.parametrize("command", CURL.values(), ids=[f"{method} {path}" for method, path in CURL])
def test_a_command_works_as_it_stands(shell: Shell, command: str) -> None:
    reply = json.loads(shell(command))
    # what is to be cancelled may be over before the shell has started
    assert "error" not in reply or reply["error"] is None or reply["error"]["code"] in ("job_over", "batch_over")
