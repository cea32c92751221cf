"""The table of environment names and the settings that read them say the same."""

import importlib
import re
from pathlib import Path

import pytest

from vqa.settings import NAMES, PREFIX, Settings

ROOT = Path(__file__).parent.parent
DEFINES = re.compile(r"^class \w+\(\w*Settings\)", re.MULTILINE)


def _subclasses(of: type[Settings]) -> set[type[Settings]]:
    return {below for direct in of.__subclasses__() for below in {direct, *_subclasses(direct)}}


def _classes() -> list[type[Settings]]:
    files = [path for package in ("vqa", "workers") for path in (ROOT / package).rglob("*.py")]
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if DEFINES.search(path.read_text())
    }
    for module in modules:
        importlib.import_module(module)
    # other tests may define settings of their own
    return [each for each in _subclasses(Settings) if each.__module__ in modules]


def test_every_setting_is_in_the_table_and_the_other_way_round() -> None:
    assert {PREFIX + field.upper() for each in _classes() for field in each.model_fields} == set(NAMES)


def test_the_tables_defaults_are_the_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in _classes():
        real = each()
        for name in each.model_fields:
            monkeypatch.setenv(PREFIX + name.upper(), NAMES[PREFIX + name.upper()].default)
        assert each() == real


def test_the_readmes_table_is_the_table_of_names() -> None:
    rows = re.findall(r"^\| `(VQA_\w+)` \| (.*?) \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert rows == [(name, f"`{each.default}`" if each.default else "", each.meaning) for name, each in NAMES.items()]
