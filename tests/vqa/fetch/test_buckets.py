"""Images from object stores: a local server that speaks S3, also as Alibaba's."""

import os
import signal
from collections.abc import Iterator
from urllib.parse import unquote

import pytest

from tests.vqa.fetch.conftest import LIMIT, MakeFetcher
from tests.vqa.fetch.site import PNG
from tests.vqa.images.stores.bucket_server import BucketServer
from vqa.errors import BadImage, ImageUnavailable
from vqa.fetch.buckets import oss_config


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    with BucketServer() as server:
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("OSS_ENDPOINT", server.variables["AWS_ENDPOINT_URL"])
        yield server


@pytest.mark.parametrize("scheme", ["s3", "oss"])
def test_an_object_below_an_allowed_prefix_is_read(
    make_fetcher: MakeFetcher, bucket: BucketServer, scheme: str
) -> None:
    bucket.objects = {"/images/shop/a.png": PNG, "/images/secret.png": PNG}
    fetcher = make_fetcher(buckets=f"{scheme}://images/shop")
    assert fetcher.fetch(f"{scheme}://images/shop/a.png") == PNG
    assert bucket.requests == [("GET", "/images/shop/a.png")]
    for key in ("secret.png", "shop/../secret.png", "shop", "shop/", "shop%2f..%2fsecret.png"):
        with pytest.raises(BadImage) as refused:
            fetcher.fetch(f"{scheme}://images/{key}")
        assert "secret" not in str(refused.value)
    assert len(bucket.requests) == 1


@pytest.mark.parametrize(
    "key", ["a b.png", "a%20b.png", "a?b.png", "a#b.png", "图.png", "a+b&c=d.png", "%2e%2e.png", "a~(b)'!*.png"]
)
def test_a_key_is_literal(make_fetcher: MakeFetcher, bucket: BucketServer, key: str) -> None:
    with pytest.raises(BadImage, match="there is no such object"):
        make_fetcher(buckets="s3://images").fetch(f"s3://images/{key}")
    (_, path), *_ = bucket.requests
    assert unquote(path) == f"/images/{key}"


def test_what_an_object_store_refuses_is_permanent_and_its_outage_is_not(
    make_fetcher: MakeFetcher, bucket: BucketServer
) -> None:
    bucket.objects = {"/images/large": PNG + bytes(LIMIT), "/images/text": b"a secret", "/images/empty": b""}
    fetcher = make_fetcher(buckets="s3://images", timeout_s=2)
    for key, said in (
        ("nothing", "^s3://images: there is no such object"),
        ("large", "over 100,000 bytes.*VQA_IMAGE_MAX_BYTES"),
        ("text", "does not begin as an image"),
        ("empty", "does not begin as an image"),
    ):
        with pytest.raises(BadImage, match=said):
            fetcher.fetch(f"s3://images/{key}")
    bucket.failing = 403
    with pytest.raises(BadImage, match="credentials"):
        fetcher.fetch("s3://images/a")
    bucket.failing = 503
    with pytest.raises(ImageUnavailable, match=r"^s3://images: "):
        fetcher.fetch("s3://images/a")


def test_a_store_without_credentials_or_endpoint_is_told(
    make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetcher = make_fetcher(buckets="oss://images,az://images", timeout_s=1)
    with pytest.raises(BadImage, match="OSS_ENDPOINT is not set"):
        fetcher.fetch("oss://images/a.png")
    with pytest.raises((BadImage, ImageUnavailable), match=r"^az://images: "):
        fetcher.fetch("az://images/a.png")


@pytest.mark.parametrize(
    ("endpoint", "url", "region", "in_host"),
    [
        ("oss-cn-hangzhou.aliyuncs.com", "https://b.oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou", True),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000", "127", False),
        ("http://minio:9000", "http://minio:9000", "minio", False),
    ],
    ids=["alibaba", "address", "name"],
)
def test_alibaba_gets_the_bucket_in_the_host(endpoint: str, url: str, region: str, in_host: bool) -> None:
    secrets = {"OSS_ACCESS_KEY_ID": "a", "OSS_ACCESS_KEY_SECRET": "b", "OSS_SECURITY_TOKEN": "c"}
    assert oss_config("b", {"OSS_ENDPOINT": endpoint, **secrets}) == {
        "endpoint": url,
        "region": region,
        "virtual_hosted_style_request": in_host,
        "access_key_id": "a",
        "secret_access_key": "b",
        "session_token": "c",
    }


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_is_told_instead_of_waiting(make_fetcher: MakeFetcher, bucket: BucketServer) -> None:
    bucket.objects = {"/images/a.png": PNG}
    fetcher = make_fetcher(buckets="s3://images")
    assert fetcher.fetch("s3://images/a.png") == PNG
    child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            fetcher.fetch("s3://images/a.png")
        except BadImage as error:
            os._exit(0 if "forked" in str(error) else 2)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
