"""deploy/systemd: systemd understands the units, they are hardened, and they leave our processes time to drain."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.missing import skip_or_fail
from vqa.gateway_settings import GatewaySettings
from vqa.settings import NAMES
from workers.settings import WorkerSettings
from workers.supervisor.link import EXIT_NEVER_READY
from workers.supervisor.supervisor import _KILL_AFTER_S

FOLDER = Path(__file__).parent.parent / "deploy" / "systemd"
#: the unit, and the seconds that its processes may take to end after SIGTERM
UNITS = {
    "vqa-worker.service": WorkerSettings().drain_s + _KILL_AFTER_S,
    "vqa-gateway.service": GatewaySettings().drain_s,
}
#: systemd's measure of what a service could do to the machine, from 0 to 10: "OK" is up to 4
MOST_EXPOSURE = 4.0

unit = pytest.mark.parametrize("unit", UNITS)


def values(unit: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", (FOLDER / unit).read_text(), re.MULTILINE)


def _analyze(folder: Path, unit: str, *arguments: str) -> str:
    if not shutil.which("systemd-analyze"):
        skip_or_fail("apt-get install systemd: its systemd-analyze checks the units")
    # it looks whether the program exists
    copy = folder / unit
    copy.write_text((FOLDER / unit).read_text().replace("/opt/vqa/bin/vqa", "/usr/bin/env"))
    done = subprocess.run(["systemd-analyze", *arguments, str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@unit
def test_systemd_has_nothing_to_say_against_a_unit(unit: str, tmp_path: Path) -> None:
    assert _analyze(tmp_path, unit, "verify", "--man=no") == ""


@unit
def test_a_service_that_is_broken_into_can_do_little_to_the_machine(unit: str, tmp_path: Path) -> None:
    said = _analyze(tmp_path, unit, "security", "--offline=true", "--no-pager")
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert exposure, said
    assert float(exposure[1]) <= MOST_EXPOSURE


@unit
def test_a_unit_gives_its_processes_the_time_that_they_take_to_drain(unit: str) -> None:
    [seconds] = values(unit, "TimeoutStopSec")
    assert float(seconds) >= UNITS[unit] + 10
    assert values(unit, "KillMode") == ["mixed"]


def test_a_worker_that_cannot_start_is_not_started_again() -> None:
    [codes] = values("vqa-worker.service", "RestartPreventExitStatus")
    assert {"2", str(EXIT_NEVER_READY)} == {*codes.split()}


@unit
def test_a_unit_has_more_files_than_a_shell_and_its_settings_from_a_file(unit: str) -> None:
    assert int(values(unit, "LimitNOFILE")[0]) >= 65_536
    [file] = values(unit, "EnvironmentFile")
    example = FOLDER / f"{Path(file).name}.example"
    assert example.read_text().startswith(f"# {file}: mode 0640")
    assert {*re.findall(r"^#?(VQA_\w+)=", example.read_text(), re.MULTILINE)} <= NAMES
