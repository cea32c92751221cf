"""Folders and globs of images: each is asked about, under a name that is its own."""

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from producer import SettingsError
from producer.inputs import BadRow, Row, detect_source, image_sources, read_rows
from tests.producer.inputs.conftest import good, question


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def rows_of(*inputs: Path | str, **options: Any) -> list[Row | BadRow]:
    return list(read_rows(detect_source([str(each) for each in inputs], **{"questions": ["What?"], **options})))


def ids(rows: list[Row | BadRow]) -> list[str]:
    return [row.custom_id for row in good(rows)]


def test_a_folder_is_read_with_those_in_it_by_name(tmp_path: Path) -> None:
    make(tmp_path, "b.jpg", "a.PNG", "notes.txt", "z/1.webp", "c/x/2.tiff", "c/1.gif", ".hidden/a.png", "._a.png")
    found = good(rows_of(tmp_path))
    assert ids(list(found)) == ["a.PNG", "b.jpg", "c/1.gif", "c/x/2.tiff", "z/1.webp"]
    assert [row.number for row in found] == [1, 2, 3, 4, 5]
    assert [image_sources(row) for row in found] == [(f"file:{tmp_path}/{row.custom_id}",) for row in found]


def test_images_that_no_worker_decodes_are_told_not_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b 1.TGA", "c.svg", "c.psd", "d/e.jxl", "notes.txt")
    first, *rest = rows_of(tmp_path)
    assert isinstance(first, Row)
    told = {row.custom_id: str(row.error) for row in rest if isinstance(row, BadRow)}
    assert list(told) == ["b 1.TGA", "c.psd", "c.svg", "d/e.jxl"]
    assert told["b 1.TGA"] == "b 1.TGA: TGA files cannot be read; convert it: magick 'b 1.TGA' 'b 1.jpg'"
    assert {type(row.error).__name__ for row in rest if isinstance(row, BadRow)} == {"BadImage"}
    [only] = rows_of(f"{tmp_path}/*.TGA")
    assert isinstance(only, BadRow)


def test_several_questions_about_each_image_have_ids_of_their_own(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png")
    found = good(rows_of(tmp_path, questions=["What?", "Why?", "Who?"]))
    assert ids(list(found)) == ["a.png", "a.png#2", "a.png#3", "b.png", "b.png#2", "b.png#3"]
    assert [question(row) for row in found] == ["What?", "Why?", "Who?"] * 2
    assert [row.number for row in found] == [1, 1, 1, 2, 2, 2]


def test_a_image_called_as_another_ones_second_question_is_told(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "a.png#2.png", "a.png#2/b.png")
    found = rows_of(tmp_path, questions=["What?", "Why?"])
    assert len({row.custom_id for row in good(found)}) == len(found) == 6


def test_odd_names_are_asked_about_and_can_be_printed(tmp_path: Path) -> None:
    odd = [b"new\nline.png", b"not utf8 \xe9.png", "ça ✓.png".encode(), b"100%.png", b"-.png", b"[1].png", b"q?*.png"]
    for name in odd:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(name)
    found = good(rows_of(tmp_path))
    assert {row.custom_id for row in found} == {
        "new%0Aline.png",
        "not utf8 %E9.png",
        "ça ✓.png",
        "100%.png",
        "-.png",
        "[1].png",
        "q?*.png",
    }
    for row in found:
        [source] = image_sources(row)
        assert Path(source.removeprefix("file:")).read_bytes() in odd
        assert row.digest()


def test_a_path_too_long_for_an_id_is_told(tmp_path: Path) -> None:
    make(tmp_path, "/".join(["x" * 200] * 3) + "/a.png", "b.png")
    first, second = rows_of(tmp_path)
    assert isinstance(first, Row)
    assert isinstance(second, BadRow)
    assert (second.number, second.custom_id) == (2, None)


def test_a_glob_finds_what_the_shell_would_have(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "a/2.png", "b/1.jpg", "b/c/3.jpg", "b/notes.txt")
    assert sorted(ids(rows_of(f"{tmp_path}/*/*.jpg"))) == ["a/1.jpg", "b/1.jpg"]
    assert sorted(ids(rows_of(f"{tmp_path}/b/**/*"))) == ["1.jpg", "c/3.jpg"]
    (tmp_path / "b/gone.jpg").symlink_to("nowhere")
    assert sorted(ids(rows_of(f"{tmp_path}/*/*.jpg"))) == ["a/1.jpg", "b/1.jpg", "b/gone.jpg"]
    expanded = [tmp_path / "a/1.jpg", tmp_path / "b/1.jpg"]
    assert ids(rows_of(*expanded)) == ["a/1.jpg", "b/1.jpg"]


def test_a_folder_is_meant_although_its_name_is_a_glob(tmp_path: Path) -> None:
    make(tmp_path, "[set]/a.png", "s/b.png")
    assert ids(rows_of(tmp_path / "[set]")) == ["a.png"]


def test_of_several_folders_ids_begin_where_they_part(tmp_path: Path) -> None:
    make(tmp_path, "train/a.png", "test/a.png")
    assert ids(rows_of(tmp_path / "train", tmp_path / "test")) == ["train/a.png", "test/a.png"]
    assert [type(row) for row in rows_of(tmp_path, tmp_path / "test")] == [Row, Row, BadRow]


def test_links_are_followed_and_never_round_in_circles(tmp_path: Path) -> None:
    make(tmp_path, "in/a.png", "outside/b.png")
    (tmp_path / "in/more").symlink_to(tmp_path / "outside")
    (tmp_path / "in/again").symlink_to(tmp_path / "in")
    (tmp_path / "outside/up").symlink_to(tmp_path)
    (tmp_path / "in/self.png").symlink_to(tmp_path / "in/self.png")
    (tmp_path / "in/gone.png").symlink_to(tmp_path / "gone")
    found = ids(rows_of(tmp_path / "in"))
    assert found[:4] == ["a.png", "gone.png", "self.png", "more/b.png"]
    assert len(found) == len(set(found)) < 10


def test_a_folder_that_cannot_be_read_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    # deeper than any path may be long
    deep, name = os.open(tmp_path, os.O_RDONLY), "x" * 250
    for _ in range(18):
        os.mkdir(name, dir_fd=deep)
        below = os.open(name, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    make(tmp_path, "z/a.png")
    first, second = rows_of(tmp_path)
    assert isinstance(first, BadRow)
    assert "File name too long" in str(first.error)
    assert second.custom_id == "z/a.png"


def test_images_are_not_opened_and_folders_one_at_a_time(tmp_path: Path) -> None:
    make(tmp_path, *(f"{at // 10}/{at}.png" for at in range(300)))
    process, most = psutil.Process(), 0
    before = process.num_fds()
    for row in read_rows(detect_source([str(tmp_path)], questions=["What?"])):
        assert isinstance(row, Row)
        most = max(most, process.num_fds())
    assert most <= before + 1


@pytest.mark.parametrize("name", ["empty", "empty/*.png"])
def test_no_images_at_all_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="no images in"):
        rows_of(tmp_path / name)
