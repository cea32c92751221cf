"""Files by URL: under the allowed folders once every link is resolved, and nothing of what lies outside."""

import os
import socket
from pathlib import Path

import pytest

from tests.vqa.fetch.conftest import LIMIT, MakeFetcher
from tests.vqa.fetch.site import PNG
from vqa.errors import BadImage
from vqa.fetch.files import read_below


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An allowed folder `in`, beside a secret and a folder whose name begins alike."""
    inside, alike = tmp_path / "in", tmp_path / "in-other"
    for each in (inside, alike, inside / "sub"):
        each.mkdir()
    for image in (inside / "a.png", inside / "sub" / "ü 1%.png", alike / "a.png", tmp_path / "secret.png"):
        image.write_bytes(PNG)
    return inside


def test_files_below_an_allowed_folder_are_read(make_fetcher: MakeFetcher, folder: Path) -> None:
    # the allowed folder is a link itself, and has one to a file inside
    (linked := folder.parent / "linked").symlink_to(folder)
    (folder / "link.png").symlink_to("sub/../a.png")
    fetcher = make_fetcher(roots=f"/nowhere:{linked}/")
    for url in (
        f"file://{folder}/a.png",
        f"file:{linked}/a.png",
        f"FILE://localhost{folder}/sub/%C3%BC%201%25.png",
        f"file://{folder}/sub/../a.png",
        f"file://{folder}/link.png",
    ):
        assert fetcher.fetch(url) == PNG


@pytest.mark.parametrize(
    "name",
    [
        *("../secret.png", "../in-other/a.png", "sub/../../secret.png", "%2e%2e/secret.png", "out.png"),
        *("out/secret.png", "nothing.png", "../nothing.png", "loop.png", "a.png/x", "", "."),
    ],
)
def test_what_is_not_in_there_is_refused_whether_it_exists_or_not(
    make_fetcher: MakeFetcher, folder: Path, name: str
) -> None:
    (folder / "out.png").symlink_to(folder.parent / "secret.png")
    (folder / "out").symlink_to(folder.parent)
    (folder / "loop.png").symlink_to("loop.png")
    with pytest.raises(BadImage, match=r"^the file does not exist, or is in no folder that VQA_FETCH_ROOTS allows$"):
        make_fetcher(roots=str(folder)).fetch(f"file://{folder}/{name}")


def test_only_regular_image_files_within_the_limit_are_read(make_fetcher: MakeFetcher, folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    (folder / "large.png").write_bytes(PNG + bytes(LIMIT))
    (folder / "text.png").write_bytes(b"a secret")
    (folder / "empty.png").write_bytes(b"")
    fetcher = make_fetcher(roots=str(folder))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.png"))
        for name, said in (
            *((name, "not a regular file") for name in ("pipe.png", "sub", "socket.png")),
            ("large.png", "over 100,000 bytes.*VQA_IMAGE_MAX_BYTES"),
            ("text.png", "does not begin as an image"),
            ("empty.png", "does not begin as an image"),
        ):
            with pytest.raises(BadImage, match=said) as refused:
                fetcher.fetch(f"file://{folder}/{name}")
            assert name not in str(refused.value)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere_else(folder: Path) -> None:
    """Swap a folder and a link to the outside while it is read: each time it is the inside's file, or refused."""
    secret, link, place = folder.parent / "outside", folder / "link", folder / "place"
    secret.mkdir()
    (secret / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nsecret")
    place.mkdir()
    (place / "a.png").write_bytes(PNG)
    link.symlink_to(secret)
    child = os.fork()
    if not child:
        # until it is killed
        while True:
            os.rename(place, folder / "old")
            os.rename(link, place)
            os.rename(place, link)
            os.rename(folder / "old", place)
    seen = set()
    try:
        for _ in range(2000):
            try:
                seen.add(read_below(str(place / "a.png"), [str(folder)], LIMIT))
            except BadImage:
                seen.add(b"")
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert seen <= {PNG, b""}


@pytest.mark.parametrize(
    "url", ["file:a.png", "file://host/a.png", "file:", "file:///a?b", "file:///a%00", "file:///a#b"]
)
def test_a_url_that_names_no_path_is_refused(make_fetcher: MakeFetcher, url: str) -> None:
    with pytest.raises(BadImage, match="not of the form file:///PATH"):
        make_fetcher(roots="/").check(url)
