"""`/v1/images`: an image is stored once, described, and forgotten."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from redis import Redis

from producer import Client
from producer.gateway.app import create_app
from producer.images.stored import record_key
from tests.producer.conftest import PlayedWorker
from vqa.gateway_settings import GatewaySettings
from vqa.images.data_url import to_data_url
from vqa.images.store import image_key, reference
from vqa.jobs.job import Job
from vqa.settings import QueueSettings


@pytest.fixture
def gateway(queue_settings: QueueSettings) -> Iterator[TestClient]:
    """The application, in this process."""
    with TestClient(create_app(queue_settings, GatewaySettings(image_ttl_s=600)), "http://localhost") as client:
        yield client


def error(response: Any) -> dict[str, Any]:
    found: dict[str, Any] = response.json()["error"]
    assert found.keys() == {"message", "type", "param", "code"}
    return found


def test_an_image_is_stored_from_a_form_a_body_or_a_data_url(gateway: TestClient, png: bytes, redis: Redis) -> None:
    sent = [
        gateway.post("/v1/images", files={"file": ("teal.png", png, "image/png")}),
        gateway.post("/v1/images", content=png, headers={"Content-Type": "image/png"}),
        gateway.post("/v1/images", content=png, headers={"Content-Type": "application/octet-stream"}),
        # what `curl --data-binary @teal.png` says
        gateway.post("/v1/images", content=png, headers={"Content-Type": "application/x-www-form-urlencoded"}),
        gateway.post("/v1/images", json={"image": to_data_url(png)}),
    ]
    ids = set()
    for response in sent:
        assert response.status_code == 200, response.text
        image = response.json()
        ids.add(image.pop("id"))
        assert image.pop("expires_at") - image.pop("created_at") == 600
        assert image == {"object": "vqa.image", "bytes": len(png), "width": 64, "height": 48, "format": "png"}
    assert len(ids) == 5
    # the bytes are kept once
    assert redis.keys("vqa:image:*") == [image_key(reference(png)).encode()]


def test_an_image_is_described_until_it_is_deleted(gateway: TestClient, png: bytes, redis: Redis) -> None:
    image = gateway.post("/v1/images", files={"file": png}).json()
    at = f"/v1/images/{image['id']}"
    assert gateway.get(at).json() == image
    assert 590 < redis.ttl(record_key(image["id"])) <= 600
    assert gateway.delete(at).json() == {"id": image["id"], "object": "vqa.image", "deleted": True}
    for response in (gateway.get(at), gateway.delete(at)):
        assert response.status_code == 404
        assert error(response)["code"] == "image_missing"


def test_a_job_may_name_the_image(gateway: TestClient, client: Client, png: bytes, worker: PlayedWorker) -> None:
    id = gateway.post("/v1/images", files={"file": png}).json()["id"]
    job = client.submit(Job.about(id, "What is it?"))
    [part] = Job.from_json(worker.take(job).payload).images()
    assert part.image == reference(png)


def test_the_image_of_another_tenant_is_as_unknown_as_none(gateway: TestClient, client: Client, png: bytes) -> None:
    other = client.images.upload(png, tenant="acme").id
    unknown = f"{other[:-6]}000000"
    for id in (other, unknown, "img_x", "batch_1", reference(png)):
        for response in (gateway.get(f"/v1/images/{id}"), gateway.delete(f"/v1/images/{id}")):
            assert response.status_code == 404
            assert error(response) == {
                "message": "no such image, or it has expired",
                "type": "invalid_request_error",
                "param": "image_id",
                "code": "image_missing",
            }
    assert client.images.retrieve(other).id == other


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        ({"files": {"file": b"no image"}}, "bad_image", "not an image in one of the formats"),
        ({"files": {"file": b""}}, "bad_image", "0 bytes"),
        ({"files": {"image": b"x"}}, "invalid_request", "file: the form has no file"),
        ({"data": {"file": "text"}, "files": {"other": b""}}, "invalid_request", "file: the form has no file"),
        ({"json": {"image": "data:image/png;base64,AAAA"}}, "bad_image", "not an image"),
        ({"json": {"image": "data:text/plain,cat"}}, "bad_image", "data: URL"),
        ({"json": {"image": "https://example.com/cat.png"}}, "bad_image", "VQA_FETCH_HOSTS"),
        ({"json": {"image": "s3://cats/cat.png"}}, "bad_image", "VQA_FETCH_BUCKETS"),
        ({"json": {"image": "file:///etc/passwd"}}, "bad_image", "VQA_FETCH_ROOTS"),
        ({"json": {"image": "sha256:" + "0" * 64}}, "invalid_request", "must be a data: or https: URL"),
        ({"json": {"image": 5}}, "invalid_request", "a string is required"),
        ({"json": ["image"]}, "invalid_request", "a string is required"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, "invalid_json", "not valid JSON"),
        ({"content": b"[" * 10**6, "headers": {"Content-Type": "application/json"}}, "invalid_request", "more than"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, "invalid_request", "boundary"),
    ],
)
def test_what_is_no_image_is_refused(
    gateway: TestClient, redis: Redis, request_: dict[str, Any], code: str, said: str
) -> None:
    response = gateway.post("/v1/images", **request_)
    assert response.status_code == 400, response.text
    assert error(response)["code"] == code
    assert said in error(response)["message"]
    assert redis.keys("vqa:im*") == []


def test_another_content_type_is_refused(gateway: TestClient) -> None:
    response = gateway.post("/v1/images", content=b"x", headers={"Content-Type": "text/plain"})
    assert (response.status_code, error(response)["code"]) == (415, "unsupported_type")


def test_an_image_over_the_limits_is_refused(queue_settings: QueueSettings, png: bytes) -> None:
    few_bytes = queue_settings.model_copy(update={"image_max_bytes": 50})
    few_pixels = queue_settings.model_copy(update={"image_max_pixels": 100})
    for settings, said in ((few_bytes, "the limit is 50"), (few_pixels, "the limit is 100")):
        with TestClient(create_app(settings, GatewaySettings()), "http://localhost") as gateway:
            response = gateway.post("/v1/images", files={"file": png})
            assert response.status_code == 400
            assert error(response)["code"] == "bad_image"
            assert said in error(response)["message"]


def test_a_body_over_the_limit_is_refused_before_it_is_read(queue_settings: QueueSettings) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "BMP")
    with TestClient(create_app(queue_settings, GatewaySettings(body_max_bytes=4096)), "http://localhost") as gateway:
        for sent in (
            gateway.post("/v1/images", files={"file": buffer.getvalue()}),
            gateway.post("/v1/images", content=buffer.getvalue(), headers={"Content-Type": "image/bmp"}),
            gateway.post("/v1/images", json={"image": base64.b64encode(buffer.getvalue()).decode()}),
        ):
            assert sent.status_code == 413
            assert error(sent)["code"] == "body_too_large"
