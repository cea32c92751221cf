"""The compose files against the schema of the Compose specification, and what the schema does not say."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from producer.monitor.health import CHECKS

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "docker-compose.yml"
#: workers on a further machine, and the example of its variables
WORKER = ROOT / "deploy" / "compose.worker.yml"
WORKER_EXAMPLE = ROOT / "deploy" / "worker.env.example"
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
#: reached by other machines, and only where its profile is asked for
PUBLIC = "nginx"


@pytest.mark.parametrize("file", [COMPOSE, WORKER], ids=["one machine", "a further machine"])
def test_it_is_a_compose_file(file: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_variable_without_a_default_is_explained() -> None:
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()))
    explained = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert required <= explained


PORTS = [port for name, service in SERVICES.items() if name != PUBLIC for port in service.get("ports", [])]


@pytest.mark.parametrize("port", PORTS)
def test_ports_are_for_this_machine_alone(port: str) -> None:
    assert port.startswith("127.0.0.1:")


def test_no_port_is_left_out() -> None:
    public = SERVICES[PUBLIC]["ports"]
    assert len(PORTS) + len(public) == len(re.findall(r'- "[^"]*:\d+"', COMPOSE.read_text()))


def test_what_other_machines_reach_has_to_be_asked_for() -> None:
    assert SERVICES[PUBLIC]["profiles"] == ["https"]
    # 8080 only redirects: tests/producer/gateway/test_nginx.py
    assert {port.rpartition(":")[2] for port in SERVICES[PUBLIC]["ports"]} == {"8080", "8443"}


def test_every_variable_that_compose_reads_is_explained() -> None:
    read = set(re.findall(r"\$\{(\w+)[:}]", COMPOSE.read_text()))
    explained = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert read == explained


def test_the_configuration_that_is_mounted_exists() -> None:
    [path] = [volume.partition(":")[0] for volume in SERVICES[PUBLIC]["volumes"] if "nginx.conf" in volume]
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "healthcheck" in service])
def test_health_checks_of_ours_exist(name: str) -> None:
    test = SERVICES[name]["healthcheck"]["test"]
    if "producer.monitor.health" in test:
        assert test[-1] in CHECKS


def test_the_image_of_producers_has_what_its_services_need() -> None:
    assert "'.[flower,gateway,metrics]'" in (ROOT / "Dockerfile").read_text()


def test_the_image_of_workers_has_what_shows_metrics() -> None:
    assert "'.[worker,metrics]'" in (ROOT / "Dockerfile").read_text()


def test_every_variable_of_a_further_machine_is_explained() -> None:
    read = set(re.findall(r"\$\{(\w+)[:}]", WORKER.read_text()))
    explained = set(re.findall(r"^(\w+)=", WORKER_EXAMPLE.read_text(), re.MULTILINE))
    assert read == explained


def test_workers_of_a_further_machine_differ_from_those_of_the_first_only_by_where_redis_is() -> None:
    first, further = (yaml.safe_load(file.read_text())["x-worker"] for file in (COMPOSE, WORKER))
    own = {"build", "depends_on", "environment", "volumes"}
    assert {key: further[key] for key in further.keys() - own} == {key: first[key] for key in first.keys() - own}
    more = {"VQA_IMAGES_URL", "VQA_REDIS_URL", "VQA_WAIT_REPLICAS"}
    assert further["environment"].keys() - more == first["environment"].keys() - more - {"<<"}


def test_workers_of_a_further_machine_show_themselves_to_it_alone_and_have_a_name_of_their_own() -> None:
    services = yaml.safe_load(WORKER.read_text())["services"]
    ports = [port for service in services.values() for port in service["ports"]]
    assert all(port.startswith("${METRICS_ADDRESS:-127.0.0.1}:") for port in ports)
    assert len({*ports}) == len(ports)
    names = {service["hostname"] for service in services.values()}
    assert len(names) == len(services)
    assert all(name.startswith("${MACHINE:?") for name in names)
