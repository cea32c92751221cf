"""What the gateway serves to browsers: the page's own files, and nothing beside them."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx2
import pytest

from tests.worker_process import ROOT

FOLDER = ROOT / "producer" / "gateway" / "page"
NAMES = sorted(path.name for path in FOLDER.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_the_page_is_served_under_a_strict_policy(http: httpx2.Client, name: str) -> None:
    reply = http.get("/" if name == "index.html" else f"/page/{name}")
    assert reply.content == (FOLDER / name).read_bytes()
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert reply.headers["content-type"].partition(";")[0] == kinds[name.rpartition(".")[2]]
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_a_browser_that_has_a_file_gets_it_once(http: httpx2.Client) -> None:
    first = http.get("/page/main.js")
    again = http.get("/page/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert http.get("/page/main.js", headers={"If-None-Match": '"another"'}).status_code == 200


@pytest.mark.parametrize("path", ["/page/../app.py", "/page/%2e%2e%2fapp.py", "/page/__init__.py", "/page/", "/page"])
def test_nothing_else_is_served(http: httpx2.Client, path: str) -> None:
    reply = http.get(path)
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "not_found"


def test_all_that_the_page_refers_to_is_served_here(http: httpx2.Client) -> None:
    for name in NAMES:
        text = (FOLDER / name).read_text()
        for path in re.findall(r"""(?:src|href)="([^"]*)\"""", text):
            assert http.get(f"/{path}").status_code == 200
        assert {*re.findall(r"""from "\./([^"]*)\"""", text)} <= {*NAMES}
        # a namespace of SVG is no address that a browser opens
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []


def test_no_script_makes_html_of_text() -> None:
    for name in NAMES:
        text = (FOLDER / name).read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)


def test_the_wheel_has_the_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.iterdir()
    assert {f"producer/gateway/page/{name}" for name in NAMES} <= {*zipfile.ZipFile(wheel).namelist()}
