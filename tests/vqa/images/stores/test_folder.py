"""A folder of images: what is in it, and what happens if it fails."""

import errno
import os
from pathlib import Path

import pytest
from redis import Redis

from vqa import ImageMissing, ImageUnavailable, SettingsError
from vqa.images.store import ImageStore, image_key, reference
from vqa.images.stores.blobs import blob_name
from vqa.images.stores.contents import StoreFull, StoreUnavailable
from vqa.images.stores.folder import Folder
from vqa.images.stores.open import open_blobs

DATA = b"an image" * 1000
NAME = reference(DATA)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images with spaces"


@pytest.fixture
def store(redis: Redis, folder: Path) -> ImageStore:
    return ImageStore.open(redis, folder.as_uri(), 3600)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_redis_has_the_index_and_the_folder_the_bytes(redis: Redis, store: ImageStore, folder: Path) -> None:
    store.put(DATA, 60)
    assert files(folder) == [blob_name(NAME)]
    assert (folder / blob_name(NAME)).read_bytes() == DATA
    assert redis.keys() == [b"vqa:images"]
    due_ms = redis.zscore("vqa:images", NAME)
    assert due_ms is not None
    assert 3655 < due_ms / 1000 - redis.time()[0] < 3665


def test_an_image_is_kept_for_the_longest_of_its_jobs(redis: Redis, store: ImageStore) -> None:
    for timeout_s in (60, 6000, 60):
        store.put(DATA, timeout_s)
    due_ms = redis.zscore("vqa:images", NAME)
    assert due_ms is not None
    assert 9595 < due_ms / 1000 - redis.time()[0] < 9605


def test_images_from_before_the_folder_are_found_in_redis(redis: Redis, store: ImageStore) -> None:
    ImageStore(redis).put(DATA, 60)
    assert store.get(NAME) == DATA
    assert store.sizes([NAME]) == {NAME: len(DATA)}
    store.extend([NAME], 6000)
    assert redis.ttl(image_key(NAME)) > 9000


def test_an_image_whose_index_redis_has_lost_is_entered_again(redis: Redis, store: ImageStore) -> None:
    store.put(DATA, 60)
    redis.flushall()
    assert store.write({}, {NAME: 60.0}) == {NAME: len(DATA)}
    assert redis.zscore("vqa:images", NAME) is not None


def test_an_image_whose_writer_was_killed_is_written_by_the_next(store: ImageStore, folder: Path) -> None:
    store.put(DATA, 60)
    (folder / blob_name(NAME)).unlink()
    store.put(DATA, 60)
    assert store.get(NAME) == DATA


def test_a_file_with_other_bytes_is_deleted_and_named_missing(store: ImageStore, folder: Path) -> None:
    store.put(DATA, 60)
    (folder / blob_name(NAME)).write_bytes(DATA[:-1])
    with pytest.raises(ImageMissing, match="overwritten"):
        store.get(NAME)
    assert not files(folder)
    store.put(DATA, 60)
    assert store.get(NAME) == DATA


def test_a_folder_that_is_not_mounted_is_an_outage_and_no_missing_image(store: ImageStore, folder: Path) -> None:
    store.put(DATA, 60)
    folder.rename(folder.with_name("away"))
    with pytest.raises(ImageUnavailable, match=r"VQA_IMAGES_URL.*No such file"):
        store.get(NAME)
    with pytest.raises(StoreUnavailable, match="VQA_IMAGES_URL"):
        store.put(DATA + b"!", 60)
    folder.with_name("away").rename(folder)
    assert store.get(NAME) == DATA


def test_an_image_that_another_folder_has_is_an_outage(redis: Redis, store: ImageStore, tmp_path: Path) -> None:
    name = store.put(DATA, 60)
    elsewhere = ImageStore.open(redis, (tmp_path / "elsewhere").as_uri(), 3600)
    with pytest.raises(ImageUnavailable, match="the same VQA_IMAGES_URL"):
        elsewhere.get(name)
    assert elsewhere.sizes([name]) == {name: None}


def test_a_full_disk_is_named_and_leaves_no_file(
    store: ImageStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFull, match=r"VQA_IMAGES_URL.*No space left"):
        store.put(DATA, 60)
    assert not files(folder)


def test_a_folder_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="VQA_IMAGES_URL: cannot make the folder"):
        open_blobs((tmp_path / "file" / "images").as_uri())


def test_what_killed_writers_left_is_deleted_after_an_hour(folder: Path) -> None:
    blobs = Folder(str(folder))
    for name, age_s in (("old", 3700), ("new", 10)):
        path = folder / "partial" / name
        path.touch()
        os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    blobs.tidy()
    assert files(folder) == ["partial/new"]


@pytest.mark.parametrize(
    "name",
    ["sha256:../../etc/passwd", "sha256:" + "a" * 63, "sha256:" + "A" * 64, "img_1", "sha256:" + "a" * 63 + "/", ""],
    ids=["dots", "short", "upper", "stored", "slash", "empty"],
)
def test_nothing_but_a_hash_reaches_a_path(name: str) -> None:
    with pytest.raises(ValueError, match="not a reference"):
        blob_name(name)
