"""A collector that is away, and what is wrong in its address, harm no process and tell no secret."""

import os
import socket
import subprocess
import sys
import time

import pytest

from vqa.errors import SettingsError
from vqa.tracing.provider import make_tracing

#: seconds; one request to a collector that does not answer takes ten
LONG_S = 8

TRACED = """
import time
from vqa.tracing.active import start_tracing
start_tracing("a process").start("a span", "internal").end()
print(time.time(), flush=True)
"""


def test_a_process_ends_soon_though_its_collector_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        command = [sys.executable, "-W", "error", "-c", TRACED]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        ended = time.time()
    assert (done.returncode, done.stderr) == (0, "")
    assert ended - float(done.stdout) < LONG_S


def test_no_key_of_a_collector_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/v1/traces?token=secret"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", address)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "the-secret-without-a-name")
    tracing = make_tracing("a process", "", "otlp")
    tracing.start("a span", "internal").end()
    tracing.stop()
    assert "url: /v1/traces?..." in caplog.text
    assert "Header format invalid" in caplog.text
    assert "secret" not in caplog.text
    assert all(record.exc_info is None for record in caplog.records)


def test_what_the_sdk_refuses_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "0")
    with pytest.raises(SettingsError, match=r"OTEL_BSP_\*: "):
        make_tracing("a process", "", "console")
