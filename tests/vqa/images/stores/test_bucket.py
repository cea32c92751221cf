"""A bucket of images, at a local server that speaks S3."""

import os
import signal

import pytest
from redis import Redis

from tests.vqa.images.stores.bucket_server import BucketServer
from vqa import ImageUnavailable, SettingsError
from vqa.images.store import ImageStore, reference
from vqa.images.stores.blobs import blob_name
from vqa.images.stores.contents import StoreUnavailable
from vqa.images.stores.open import open_blobs

DATA = b"an image" * 1000


@pytest.fixture
def store(redis: Redis, bucket: BucketServer) -> ImageStore:
    return ImageStore.open(redis, "s3://images/jobs", 3600)


def test_an_image_is_sent_once_under_its_hash(store: ImageStore, bucket: BucketServer) -> None:
    for _ in range(3):
        store.put(DATA, 60)
    path = f"/images/jobs/{blob_name(reference(DATA))}"
    assert bucket.objects == {path: DATA}
    assert bucket.requests == [("PUT", path), ("HEAD", path), ("HEAD", path)]


def test_an_image_is_deleted_whether_it_is_there_or_not(store: ImageStore, bucket: BucketServer) -> None:
    name = store.put(DATA, 60)
    for _ in range(2):
        open_blobs("s3://images/jobs").delete(blob_name(name))
        assert not bucket.objects


def test_a_bucket_that_fails_is_an_outage(store: ImageStore, bucket: BucketServer) -> None:
    name = store.put(DATA, 60)
    bucket.failing = 503
    with pytest.raises(ImageUnavailable, match="VQA_IMAGES_URL"):
        store.get(name)
    bucket.failing = None
    assert store.get(name) == DATA


def test_refused_credentials_are_named(store: ImageStore, bucket: BucketServer) -> None:
    bucket.failing = 403
    with pytest.raises(StoreUnavailable, match=r"VQA_IMAGES_URL.*refuses the credentials") as caught:
        store.put(DATA, 60)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["images", "file://host/images", "file:images", "s3://", "http://host/images", "redis://host"],
    ids=["path", "file-host", "file-relative", "no-bucket", "http", "redis"],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"VQA_IMAGES_URL: must be file:///FOLDER, s3://"):
        open_blobs(url)


@pytest.mark.parametrize("url", ["file:///images#1", "file:///images?a", "s3://images?a=b"])
def test_what_would_be_left_out_of_a_path_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"VQA_IMAGES_URL: must have %3F for \? and %23 for #"):
        open_blobs(url)


def test_a_container_without_an_account_is_refused_with_the_reason() -> None:
    with pytest.raises(SettingsError, match=r"VQA_IMAGES_URL: .*Account must be specified"):
        open_blobs("az://images/jobs")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_is_told_instead_of_waiting_for_ever(store: ImageStore) -> None:
    name = store.put(DATA, 60)
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        try:
            store.put(DATA + b"!", 60)
        except StoreUnavailable as error:
            os._exit(0 if "forked" in str(error) else 2)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert store.get(name) == DATA
