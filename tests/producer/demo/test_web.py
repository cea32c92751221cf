"""The pages of a demo, which goes on without them."""

from pathlib import Path

import pytest

from producer.demo import web
from producer.demo.child import Child
from producer.demo.processes import Processes
from producer.demo.redis_server import free_port
from producer.demo.web import WebServer, start_gateway
from vqa.errors import SettingsError


def test_without_the_extra_the_demo_says_how_to_get_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_PACKAGES", ("fastapi", "no_such_package"))
    with Processes(grace_s=1) as processes:
        assert start_gateway(processes, "redis://127.0.0.1:1/0", 1) == (
            "Gateway: not installed (pip install 'vqa-queue[gateway]')"
        )


def test_a_wrong_setting_of_the_gateway_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQA_GATEWAY_PROCESSES", "many")
    with Processes(grace_s=1) as processes, pytest.raises(SettingsError, match="VQA_GATEWAY_PROCESSES"):
        start_gateway(processes, "redis://127.0.0.1:1/0", 1)


def test_a_server_that_ends_is_told_and_not_waited_for(tmp_path: Path) -> None:
    said: list[str] = []
    with (tmp_path / "log").open("wb") as log:
        child = Child(["false"], log)
        port = free_port()
        assert not WebServer("Gateway", f"http://127.0.0.1:{port}", child, "127.0.0.1", port).wait(said.append)
        child.stop()
    assert said == ["Gateway exited with status 1 before it was ready; continuing without it"]
