"""docker-compose.yml against the schema of the Compose specification, and what the schema does not say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "docker-compose.yml"


def test_it_is_a_compose_file() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_variable_without_a_default_is_explained() -> None:
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()))
    explained = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert required <= explained


@pytest.mark.parametrize("port", re.findall(r'- "([^"]*:\d+)"', COMPOSE.read_text()))
def test_ports_are_for_this_machine_alone(port: str) -> None:
    assert port.startswith("127.0.0.1:")
