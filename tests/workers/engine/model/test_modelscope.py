"""VQA_HUB=modelscope, against a server that speaks the two addresses that ModelScope's client asks for a download.

The real hub cannot be reached from where this was written: what it sends beyond these fields is not tested.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.workers.engine.conftest import Starting, answers, ask
from vqa.errors import NotReady
from workers.engine.model.hub import source
from workers.engine.settings import EngineSettings

pytest.importorskip("modelscope_hub", reason="needs the extra modelscope")

NAME = "some/model"


class Hub(ThreadingHTTPServer):
    """Serves a folder as one model."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.revision = folder, "master"
        #: files that were sent, and from which byte on
        self.sent: list[tuple[str, int]] = []
        #: bytes after which the weights' connection is closed; None to send all
        self.breaks_after: int | None = None
        #: status of each reply if it is not None
        self.refuses: int | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if self.server.refuses is not None:
            self._json({"Code": 1, "Message": "refused"}, self.server.refuses)
        elif query.get("Revision", self.server.revision) != self.server.revision:
            self._json({"Code": 10010205001, "Message": "no such revision"}, 404)
        elif url.path == f"/api/v1/models/{NAME}/repo/files":
            self._json({"Code": 200, "Success": True, "Data": {"Files": [*map(self._entry, self._files())]}})
        elif url.path == f"/api/v1/models/{NAME}/repo":
            self._file(query["FilePath"])
        else:
            self._json({"Code": 10010205001, "Message": "no such model"}, 404)

    def _files(self) -> list[Path]:
        return sorted(path for path in self.server.folder.rglob("*") if path.is_file())

    def _entry(self, path: Path) -> dict[str, Any]:
        content, name = path.read_bytes(), path.relative_to(self.server.folder).as_posix()
        return {"Path": name, "Type": "blob", "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest()}

    def _json(self, body: Any, status: int = 200) -> None:
        self._send(json.dumps(body).encode(), status, {"Content-Type": "application/json"})

    def _file(self, name: str) -> None:
        content = (self.server.folder / name).read_bytes()
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.server.sent.append((name, start))
        ranged = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        stop = self.server.breaks_after if name.endswith(".safetensors") else None
        self._send(content[start:], 206 if start else 200, ranged, stop)

    def _send(self, body: bytes, status: int, headers: dict[str, str], stop: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:stop])
        self.close_connection = stop is not None


@pytest.fixture
def hub(dense_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The dense model beside what transformers does not load."""
    folder = shutil.copytree(dense_model, tmp_path / "served")
    for name in ("consolidated.safetensors", "original/model.safetensors", "model.onnx", "README.md", "modeling.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not needed")
    with Hub(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.address)
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
        yield server
        server.shutdown()
        thread.join()


def settings(**more: Any) -> EngineSettings:
    return EngineSettings(model=NAME, hub="modelscope", **more)


def test_a_model_by_its_name_answers_as_from_its_folder(hub: Hub, starting: Starting, dense_model: Path) -> None:
    engine = starting(model=NAME, hub="modelscope")

    assert answers(engine, [ask(0)]) == answers(starting(model=str(dense_model)), [ask(0)])
    assert engine.model == NAME
    assert {name for name, _ in hub.sent} == {file.name for file in dense_model.iterdir()}


def test_code_is_fetched_only_if_it_may_run(hub: Hub) -> None:
    folder = Path(source(settings(trust_remote_code=True)))

    assert (folder / "modeling.py").is_file()
    assert not (folder / "original").exists()


def test_a_complete_model_needs_no_hub(hub: Hub) -> None:
    first = source(settings())
    hub.refuses = 500

    assert source(settings()) == first


def test_a_download_that_broke_off_continues_where_it_was(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_RETRY_TIMES", 0)
    hub.breaks_after = 1000
    with pytest.raises(NotReady, match="start again, which continues"):
        source(settings())
    hub.breaks_after = None
    hub.sent.clear()

    folder = Path(source(settings()))

    assert hub.sent == [("model.safetensors", 1000)]
    assert (folder / "model.safetensors").read_bytes() == (hub.folder / "model.safetensors").read_bytes()


def test_another_revision_is_another_folder(hub: Hub) -> None:
    first = source(settings())
    hub.revision = "v2"

    assert source(settings(revision="v2")) != first


def test_what_is_downloaded_and_from_where_is_told(
    hub: Hub, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.engine.model.modelscope._REPORT_S", 0)
    caplog.set_level(logging.INFO, "workers.engine.model.modelscope")

    folder = source(settings())

    said = [record.getMessage() for record in caplog.records if record.name == "workers.engine.model.modelscope"]
    assert said[0] == f"downloading {NAME} (VQA_MODEL) from ModelScope at {hub.address}"
    assert "model.safetensors: 0.00 of 0.00 GiB" in said
    assert said[-1] == f"{NAME} (VQA_MODEL) is in {folder}"


@pytest.mark.parametrize(
    ("change", "ways"),
    [
        ({"model": "some/other"}, ("has no some/other", "VQA_MODEL", "/models")),
        ({"revision": "v7"}, ("revision v7", "VQA_REVISION")),
        ({"refuses": 403}, ("MODELSCOPE_API_TOKEN",)),
        ({"closed": True}, ("MODELSCOPE_ENDPOINT", "local folder")),
        ({"lacks": "config.json"}, ("has no config.json",)),
        ({"lacks": "model.safetensors"}, ("has no model.safetensors",)),
    ],
    ids=["model", "revision", "forbidden", "unreachable", "config", "weights"],
)
def test_an_error_says_what_to_do_in_one_line(
    hub: Hub, change: dict[str, Any], ways: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = EngineSettings(model=change.get("model", NAME), hub="modelscope", revision=change.get("revision"))
    hub.refuses = change.get("refuses")
    if "lacks" in change:
        (hub.folder / change["lacks"]).unlink()
    if "closed" in change:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(NotReady) as refused:
        source(asked)

    assert [way for way in ways if way not in str(refused.value)] == []
    assert "\n" not in str(refused.value)


def test_a_local_folder_is_not_looked_for_on_a_hub(hub: Hub, dense_model: Path) -> None:
    assert source(EngineSettings(model=str(dense_model), hub="modelscope")) == str(dense_model)
    assert hub.sent == []
