"""The documents are short enough, and what they name exists."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from vqa.settings import NAMES

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").glob("*.md"))]

LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:vqa|producer|workers|bench|training|tests|examples|models|deploy|docs)/[\w./-]*)`")
SETTING = re.compile(r"\bVQA_[A-Z_]+\b")
#: dated records of how things were: the settings that they name may be gone
RECORDS = ("decisions.md", "engine-log.md")


def slug(heading: str) -> str:
    """As GitHub makes a heading's anchor."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")


def anchors(document: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)}


def broken_links(document: Path) -> Iterator[str]:
    for link in LINK.findall(document.read_text()):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_bytes()
    assert text.count(b"\n") <= 240
    assert len(text) <= 14_000


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_to_a_file(document: Path) -> None:
    assert [*broken_links(document)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_of_the_code_exists(document: Path) -> None:
    assert [path for path in PATH.findall(document.read_text()) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.name not in RECORDS], ids=lambda path: path.name
)
def test_every_setting_is_known(document: Path) -> None:
    assert {*SETTING.findall(document.read_text())} - {*NAMES, "VQA_"} == set()
