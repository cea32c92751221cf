"""The site that `make docs` builds has every page of docs/ in its navigation."""

import runpy

from tests.docs.blocks import ROOT


def test_every_page_is_in_one_group_of_the_navigation() -> None:
    groups = runpy.run_path(str(ROOT / "docs" / "site" / "stage.py"))["GROUPS"]
    named = [name for names in groups.values() for name in names]
    assert sorted(named) == sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
