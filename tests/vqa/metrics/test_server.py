"""Addresses of metrics, and what is said if they cannot be shown."""

import socket
import subprocess
import sys
import urllib.request

import pytest
from prometheus_client import CollectorRegistry

from vqa.errors import NotReady
from vqa.metrics.server import ListenAddress, MetricsServer


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        pytest.param("127.0.0.1:9110", "127.0.0.1", 9110, id="ipv4"),
        pytest.param("[::1]:9110", "::1", 9110, id="ipv6"),
        pytest.param(":9110", "0.0.0.0", 9110, id="all"),
        pytest.param("metrics.internal:0", "metrics.internal", 0, id="name"),
    ],
)
def test_an_address_is_parsed(text: str, host: str, port: int) -> None:
    assert ListenAddress.parse(text) == ListenAddress(host, port)


@pytest.mark.parametrize("text", ["9110", "127.0.0.1", "::1:9110", ":", ":x", ":65536", ":-1", "a:1:2"])
def test_a_wrong_address_says_how_one_looks(text: str) -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9110|\[::1\]:9110"):
        ListenAddress.parse(text)


def test_metrics_are_served_until_the_server_is_stopped() -> None:
    server = MetricsServer(ListenAddress("127.0.0.1", 0), CollectorRegistry(), "VQA_METRICS_ADDRESS")
    with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=10) as reply:
        assert reply.status == 200
    server.stop()
    with socket.socket() as again:
        assert again.connect_ex(("127.0.0.1", server.address.port)) != 0


def test_a_taken_address_is_named_with_the_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = ListenAddress("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(NotReady, match=f"VQA_METRICS_ADDRESS: metrics cannot be shown at {address}: .*in use"):
            MetricsServer(address, CollectorRegistry(), "VQA_METRICS_ADDRESS")


@pytest.mark.parametrize(
    ("module", "arguments", "variables", "who"),
    [
        pytest.param(
            "workers.__main__",
            "['--cards', 'cpu']",
            {"VQA_METRICS_ADDRESS": ":9110"},
            "VQA_METRICS_ADDRESS",
            id="worker",
        ),
        pytest.param("producer.cli.main", "['metrics']", {}, "vqa metrics", id="queue"),
        pytest.param(
            "producer.cli.main",
            "['gateway']",
            {"VQA_GATEWAY_METRICS_KEY": "k" * 16},
            "VQA_GATEWAY_METRICS_KEY",
            id="gateway",
        ),
    ],
)
def test_without_the_package_one_line_says_what_to_install(
    module: str, arguments: str, variables: dict[str, str], who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"VQA_ENGINE": "echo", **variables}.items():
        monkeypatch.setenv(name, value)
    run = f"sys.argv[1:] = {arguments}; from {module} import " + (
        "app; app()" if "workers" in module else "main; main()"
    )
    code = f"import sys; sys.modules['prometheus_client'] = None; {run}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    said = f"vqa: SettingsError: {who}: prometheus-client is not installed: pip install 'vqa-queue[metrics]'\n"
    assert (done.returncode, done.stderr) == (2, said)
