"""Deletion of images whose time is over, while others put the same images again."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from redis import Redis

from tests.worker_process import ROOT
from vqa.images.store import ImageStore, reference
from vqa.images.stores.blobs import blob_name
from vqa.images.stores.contents import StoreUnavailable
from vqa.images.stores.folder import Folder
from vqa.images.stores.index import DELETION_S, GOING, IMAGES, Index
from vqa.images.stores.indexed_contents import IndexedContents
from vqa.images.stores.sweep import sweep

DATA = b"an image" * 1000
NAME = reference(DATA)


@pytest.fixture
def index(redis: Redis) -> Index:
    return Index(redis)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "images"))


@pytest.fixture
def store(redis: Redis, folder: Folder) -> ImageStore:
    """A store whose images are due as soon as their job's timeout is over."""
    return ImageStore(redis, IndexedContents(redis, folder), margin_s=0)


def test_only_what_is_due_is_deleted(redis: Redis, store: ImageStore, folder: Folder, index: Index) -> None:
    kept = store.put(b"kept", 60)
    store.put_many([b"%d" % number for number in range(50)], 0)
    assert sweep(index, folder) == 50
    assert sweep(index, folder) == 0
    assert redis.zrange(IMAGES, 0, -1) == [kept.encode()]
    assert not redis.exists(GOING)
    assert store.get(kept) == b"kept"
    assert folder.size(blob_name(reference(b"7"))) is None


def test_two_sweeps_at_once_delete_each_image_once(store: ImageStore, folder: Folder, index: Index) -> None:
    store.put_many([b"%d" % number for number in range(300)], 0)
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda _: sweep(index, folder), range(4)))
    assert sum(counts) == 300


class _SlowFolder(Folder):
    """Deletes when it is told to."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.deleting, self.go_on = threading.Event(), threading.Event()

    def delete(self, name: str) -> None:
        self.deleting.set()
        assert self.go_on.wait(20)
        super().delete(name)


def test_an_image_that_is_put_while_it_is_deleted_survives(redis: Redis, tmp_path: Path, index: Index) -> None:
    slow = _SlowFolder(str(tmp_path / "images"))
    store = ImageStore(redis, IndexedContents(redis, slow), margin_s=0)
    store.put(DATA, 0)
    with ThreadPoolExecutor(2) as pool:
        deletion = pool.submit(sweep, index, slow)
        assert slow.deleting.wait(20)
        again = pool.submit(store.put, DATA, 60)
        slow.go_on.set()
        assert deletion.result(20) == 1
        again.result(20)
    assert store.get(NAME) == DATA
    assert redis.zcard(IMAGES) == 1
    assert not redis.exists(GOING)


def test_an_image_that_is_named_while_it_is_deleted_is_missing_once_it_is_gone(
    redis: Redis, tmp_path: Path, index: Index
) -> None:
    slow = _SlowFolder(str(tmp_path / "images"))
    store = ImageStore(redis, IndexedContents(redis, slow), margin_s=0)
    store.put(DATA, 0)
    with ThreadPoolExecutor(2) as pool:
        deletion = pool.submit(sweep, index, slow)
        assert slow.deleting.wait(20)
        named = pool.submit(store.write, {}, {NAME: 60.0})
        assert not wait({named}, timeout=0.2).done
        slow.go_on.set()
        assert deletion.result(20) == 1
        # the producer sends it
        assert named.result(20) == {NAME: None}


def test_no_image_that_is_put_again_is_lost_whenever_sweeps_come(
    redis: Redis, store: ImageStore, folder: Folder, index: Index
) -> None:
    stop = threading.Event()

    def sweeps() -> None:
        while not stop.is_set():
            sweep(index, folder)

    def writes(seed: int) -> list[str]:
        chance, kept = random.Random(seed), []
        for number in range(20):
            contents = [b"%d %d %d" % (seed, number, each) for each in range(4)]
            store.put_many(contents, 0)
            # the sweeps are deleting them
            time.sleep(chance.random() * 0.003)
            kept += store.put_many(contents, 60).values()
        return kept

    with ThreadPoolExecutor(4) as pool:
        sweepers = [pool.submit(sweeps) for _ in range(2)]
        kept = [name for names in pool.map(writes, (1, 2)) for name in names]
        stop.set()
        for sweeper in sweepers:
            sweeper.result(60)
    assert len(kept) == 160
    assert [name for name, size in store.sizes(kept).items() if size is None] == []


def test_a_deletion_whose_janitor_was_killed_is_done_by_another(
    redis: Redis, store: ImageStore, folder: Folder, index: Index
) -> None:
    store.put(DATA, 0)
    index.claim(10)
    assert sweep(index, folder) == 0
    _age(redis)
    assert sweep(index, folder) == 1
    assert folder.size(blob_name(NAME)) is None


def test_a_writer_does_not_wait_for_a_janitor_that_was_killed(redis: Redis, store: ImageStore, index: Index) -> None:
    store.put(DATA, 0)
    claimed, names = index.claim(10)
    assert names == [NAME]
    _age(redis)
    store.put(DATA, 60)
    assert store.get(NAME) == DATA
    # the janitor was only stopped, and goes on
    assert not index.may_delete(claimed, NAME)


def test_images_that_cannot_be_deleted_keep_no_others(
    redis: Redis, tmp_path: Path, store: ImageStore, folder: Folder, index: Index
) -> None:
    stuck = [store.put(b"stuck %d" % number, 0) for number in range(45)]
    for name in stuck:
        # in place of the file there is what unlink refuses, whoever runs the test
        path = tmp_path / "images" / blob_name(name)
        path.unlink()
        path.mkdir()
    # portions in which nothing can be deleted end a sweep, and are tried again after all others
    for count in (20, 20, 5):
        with pytest.raises(StoreUnavailable, match=rf"VQA_IMAGES_URL.*\({count} images\)"):
            sweep(index, folder)
    _age(redis)
    others = [store.put(b"other %d" % number, 0) for number in range(30)]
    with pytest.raises(StoreUnavailable, match=r"\(\d+ images\)"):
        sweep(index, folder)
    assert {folder.size(blob_name(name)) for name in others} == {None}
    assert sorted(name.decode() for name in redis.zrange(GOING, 0, -1)) == sorted(stuck)


def _age(redis: Redis) -> None:
    """Make all deletions as old as if they had begun before the longest time that one takes."""
    for name, began in redis.zrange(GOING, 0, -1, withscores=True):
        redis.zadd(GOING, {name: began - DELETION_S * 1000 - 1})


def test_images_that_a_reader_names_while_they_are_deleted_are_missing(store: ImageStore, index: Index) -> None:
    store.put(DATA, 0)
    index.claim(10)
    states = index.keep({NAME: 60}, ())
    assert states == {NAME: "absent"}


_PRODUCER = """
import os, signal, sys
from redis import Redis
from vqa.images.store import ImageStore
url, folder = sys.argv[1:]
store = ImageStore.open(Redis.from_url(url), folder, 0)
store.put(b"an image" * 1000, 0)
# it would accept the job now
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_image_of_a_producer_that_was_killed_before_its_job_was_accepted_goes(
    redis: Redis, redis_url: str, tmp_path: Path, folder: Folder, index: Index
) -> None:
    url = (tmp_path / "images").as_uri()
    done = subprocess.run([sys.executable, "-c", _PRODUCER, redis_url, url], cwd=ROOT, timeout=30, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert folder.size(blob_name(NAME)) == len(DATA)
    assert sweep(index, folder) == 1
    assert folder.size(blob_name(NAME)) is None
    assert not redis.keys()


def test_more_images_than_one_call_takes_are_entered(redis: Redis, index: Index) -> None:
    keep = {reference(b"%d" % number): 60 for number in range(2500)}
    assert set(index.keep(keep, keep).values()) == {"new"}
    assert set(index.keep(keep, ()).values()) == {"known"}
    assert redis.zcard(IMAGES) == 2500
