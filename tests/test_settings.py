"""The settings classes, the names that a producer knows, and docs/settings.md say the same."""

import subprocess
import sys
from pathlib import Path

import pytest

from vqa.settings import NAMES
from workers.settings_table import CLASSES, markdown, settings

ROOT = Path(__file__).parent.parent


def test_a_producer_knows_every_name() -> None:
    assert {name for _, name, _, _ in settings()} == NAMES


def test_every_setting_has_a_meaning_and_a_default_as_the_environment_writes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = {kind: kind() for kind in CLASSES.values()}
    for _, name, default, meaning in settings():
        assert meaning
        monkeypatch.setenv(name, default)
    for kind, values in usual.items():
        assert kind() == values


def test_the_documentation_is_up_to_date() -> None:
    wanted = markdown()
    command = "python -m workers.settings_table --markdown > docs/settings.md"
    assert (ROOT / "docs" / "settings.md").read_text() == wanted, f"stale; run: {command}"


def test_the_table_needs_no_torch() -> None:
    code = "import sys, workers.settings_table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
