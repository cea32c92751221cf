"""The health check of the gateway's container."""

from urllib.parse import urlsplit

import pytest

from producer.demo.redis_server import free_port
from producer.monitor import health
from producer.process import USAGE
from tests.producer.gateway.gateway_process import GatewayProcess


def test_a_gateway_that_answers_is_healthy(gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQA_GATEWAY_PORT", str(urlsplit(gateway.url).port))
    # as in a container, whose gateway listens on all addresses
    monkeypatch.setenv("VQA_GATEWAY_ADDRESS", "0.0.0.0")
    assert health.main(["gateway"]) == 0


def test_one_that_is_away_is_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VQA_GATEWAY_PORT", str(free_port()))
    assert health.main(["gateway"]) == 1
    assert capsys.readouterr().err == "gateway: URLError\n"


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VQA_GATEWAY_PORT", "many")
    assert health.main(["gateway"]) == USAGE
    assert "VQA_GATEWAY_PORT" in capsys.readouterr().err
