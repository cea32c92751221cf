"""Lays out the site's pages: README.md as its index, docs/ beside it, and the files that they link to.

The layout is that of the repository, so links need no change. The navigation has every page of docs/, by the groups
below.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

GROUPS = {
    "Use": ("python", "bulk", "gateway", "wire", "images"),
    "Run": ("operations", "models", "settings", "filter", "metrics", "dashboard", "tracing"),
    "Grow": ("scaling", "growing", "several-models", "several-machines", "kubernetes"),
    "Know": ("architecture", "benchmarks", "decisions", "dependencies", "engine-log"),
}
PAGES = ("README.zh-CN.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")

_LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]+)")


def stage(into: Path) -> None:
    """Replace `into` by zensical.toml and a folder `pages`."""
    shutil.rmtree(into, ignore_errors=True)
    pages = into / "pages"
    shutil.copytree(ROOT / "docs", pages / "docs", ignore=shutil.ignore_patterns("site"))
    shutil.copyfile(ROOT / "README.md", pages / "index.md")
    for name in PAGES:
        shutil.copyfile(ROOT / name, pages / name)
    for page in [*pages.glob("*.md"), *pages.glob("docs/*.md")]:
        _point_to_index(page)
        for link in _LINK.findall(page.read_text()):
            _copy(pages, (page.parent / link).resolve())
    template = (ROOT / "docs" / "site" / "zensical.toml").read_text()
    (into / "zensical.toml").write_text(template + f"nav = {json.dumps(_navigation())}\n".replace('": ', '" = '))


def _point_to_index(page: Path) -> None:
    page.write_text(re.sub(r"\]\((\.\./)?README\.md", r"](\1index.md", page.read_text()))


def _copy(pages: Path, target: Path) -> None:
    """Copy a linked file or folder that is not there yet from the repository."""
    if target.exists() or not target.is_relative_to(pages):
        return
    source = ROOT / target.relative_to(pages)
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _navigation() -> list[dict[str, object]]:
    groups = [{group: [f"docs/{name}.md" for name in names]} for group, names in GROUPS.items()]
    more = [{name.removesuffix(".md").capitalize(): name} for name in PAGES[1:]]
    return [{"Start": "index.md"}, *groups, {"Project": more}]


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
