"""The profile `monitoring` of docker-compose.yml, and the files that it mounts. Docker itself is not run."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.prometheus import FOLDER
from tests.deploy.queries import DASHBOARD
from tests.worker_process import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
MONITORING = [name for name, service in SERVICES.items() if service.get("profiles") == ["monitoring"]]
CONFIGURATION: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
JOBS = {job["job_name"]: job for job in CONFIGURATION["scrape_configs"]}
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"


def mounts(name: str) -> dict[str, Path]:
    """Return what of this repository a service sees: path in the container -> path here. All are read-only."""
    found = {}
    for volume in SERVICES[name].get("volumes", []):
        source, target, *mode = volume.split(":")
        if source.startswith("."):
            assert mode == ["ro"]
            found[target] = ROOT / source
        else:
            assert source in COMPOSE["volumes"]
    return found


def test_the_profile_has_these_services() -> None:
    assert MONITORING == ["metrics", "prometheus", "grafana"]


@pytest.mark.parametrize("name", MONITORING)
def test_a_service_has_no_privileges(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"cap_add", "privileged", "pid", "network_mode", "devices", "user"} & {*service}
    assert "docker.sock" not in str(service)


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_an_image_is_pinned_to_a_release(name: str) -> None:
    assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


@pytest.mark.parametrize("name", MONITORING)
def test_what_is_mounted_exists(name: str) -> None:
    assert [path for path in mounts(name).values() if not path.exists()] == []


@pytest.mark.parametrize(("password", "status"), [("", 64), ("long enough", 127)], ids=["none", "given"])
def test_grafana_does_not_start_without_a_password(password: str, status: int) -> None:
    service = SERVICES["grafana"]
    assert service["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "${GRAFANA_PASSWORD:-}"
    # as Compose hands it to the container, in which there is a /run.sh
    command = [*service["entrypoint"], *(part.replace("$$", "$") for part in service["command"])]
    done = subprocess.run(
        command, env={"GF_SECURITY_ADMIN_PASSWORD": password}, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == status
    assert ("set GRAFANA_PASSWORD in .env" in done.stderr) == (not password)


def test_prometheus_finds_every_worker_that_compose_starts() -> None:
    [found] = JOBS["vqa-workers"]["dns_sd_configs"]
    workers = [name for name, service in SERVICES.items() if service.get("image", "").startswith("vqa-queue-worker:")]
    assert found["names"] == workers
    for name in workers:
        assert SERVICES[name]["environment"]["VQA_METRICS_ADDRESS"] == f":{found['port']}"


def test_prometheus_finds_the_queue_and_the_rules() -> None:
    [found] = JOBS["vqa-queue"]["static_configs"]
    [target] = found["targets"]
    service, _, port = target.partition(":")
    assert SERVICES[service]["command"] == ["metrics", "--address", f":{port}"]
    assert f"127.0.0.1:{port}/metrics" in str(SERVICES[service]["healthcheck"])
    started_with = next(part for part in SERVICES["prometheus"]["command"] if part.startswith("--config.file="))
    path = Path(started_with.partition("=")[2])
    folder = mounts("prometheus")[str(path.parent)]
    assert (folder / path.name).is_file()
    assert [name for name in CONFIGURATION["rule_files"] if not (folder / name).is_file()] == []


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    mounted = mounts("grafana")
    assert mounted["/etc/grafana/provisioning"] == PROVISIONING
    [source] = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == CONFIGURATION["global"]["scrape_interval"]
    [provider] = yaml.safe_load((PROVISIONING / "dashboards" / "vqa.yml").read_text())["providers"]
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (mounted[str(home.parent)] / home.name).is_file()
    assert DASHBOARD["uid"] == "vqa"
