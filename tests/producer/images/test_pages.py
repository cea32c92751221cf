"""The limit on the pages of a file holds for those that are asked about: a long document may be asked about in part."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from redis import Redis

from producer import BadImage, Client, ImagePart, Job, TextPart, VideoPart
from producer.bulk.image_loader import ImageLoader, PendingRow
from producer.gateway.app import create_app
from producer.images.reader import ImageReader
from producer.inputs import Row
from tests.producer.conftest import PlayedWorker
from vqa.gateway_settings import GatewaySettings
from vqa.images.store import image_key, reference
from vqa.settings import QueueSettings

#: pages of the document: more than VQA_IMAGE_MAX_PAGES
PAGES = 20

REFUSED = [
    (None, r"more than 16 pages \(VQA_IMAGE_MAX_PAGES\).*`pages`"),
    ("1-17", r"pages 1-17 are more than 16 \(VQA_IMAGE_MAX_PAGES\)"),
    ("20-21", "pages 20-21: the file has 20"),
]
NAMES = ["all", "too many", "beyond"]


@pytest.fixture(scope="module")
def document() -> bytes:
    first, *rest = (Image.new("L", (16, 16), 10 * number) for number in range(PAGES))
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=rest)
    return buffer.getvalue()


def asking(*parts: ImagePart | VideoPart) -> Job:
    return Job(messages=[{"role": "user", "content": [*parts, TextPart(text="?")]}])


def test_a_few_pages_of_a_long_document_are_submitted(client: Client, document: bytes, worker: PlayedWorker) -> None:
    id = client.submit(asking(ImagePart(image=document, pages="5-20"), ImagePart(image=document, pages="3")))
    taken = Job.from_json(worker.take(id).payload)
    assert [(part.image, part.pages) for part in taken.images()] == [
        (reference(document), "5-20"),
        (reference(document), "3"),
    ]


@pytest.mark.parametrize(("pages", "message"), REFUSED, ids=NAMES)
def test_other_pages_are_refused_before_they_are_stored(
    client: Client, document: bytes, redis: Redis, pages: str | None, message: str
) -> None:
    for parts in (
        [ImagePart(image=document, pages=pages)],
        [ImagePart(image=document, pages=each) for each in ("1", pages)],
    ):
        with pytest.raises(BadImage, match=message):
            client.submit(asking(*parts))
    assert not redis.exists(image_key(reference(document)))


def test_the_frame_of_a_video_is_the_first_page(client: Client, document: bytes) -> None:
    assert client.submit(asking(VideoPart(frames=(document, document), times_s=(0, 1))))


@pytest.mark.parametrize(("pages", "message"), [("2-3", None), *REFUSED], ids=["few", *NAMES])
def test_a_gateway_heeds_the_pages_too(
    queue_settings: QueueSettings, document: bytes, pages: str | None, message: str | None
) -> None:
    url = "data:image/tiff;base64," + base64.b64encode(document).decode()
    image = {"type": "image_url", "image_url": {"url": url, **({"pages": pages} if pages else {})}}
    body = {"messages": [{"role": "user", "content": [image]}], "vqa": {"lane": "bulk"}}
    with TestClient(create_app(queue_settings, GatewaySettings()), "http://localhost") as gateway:
        reply = gateway.post("/v1/chat/completions", json=body, headers={"Prefer": "respond-async"})
    if message is None:
        assert reply.status_code == 202, reply.text
    else:
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "bad_image")
        with pytest.raises(BadImage, match=message):
            raise BadImage(reply.json()["error"]["message"])


@pytest.mark.parametrize(("pages", "message"), [("2-3", None), *REFUSED], ids=["few", *NAMES])
def test_rows_heed_the_pages_too(
    queue_settings: QueueSettings, document: bytes, tmp_path: Path, pages: str | None, message: str | None
) -> None:
    (tmp_path / "scan.tif").write_bytes(document)
    part: dict[str, Any] = {"type": "image", "image": f"file:{tmp_path}/scan.tif", "pages": pages}
    row = Row(1, "scan", {"messages": [{"role": "user", "content": [part]}]})
    reader = ImageReader(queue_settings)
    with ImageLoader(reader) as loader:
        [loaded] = loader.load([PendingRow("id", row)])
    reader.close()
    if message is None:
        assert loaded.error is None
        assert list(loaded.references.values()) == [reference(document)]
    else:
        assert isinstance(loaded.error, BadImage)
        with pytest.raises(BadImage, match=message):
            raise loaded.error


def test_a_long_document_is_stored_and_its_pages_chosen_later(client: Client, document: bytes) -> None:
    stored = client.images.upload(document)
    assert (stored.bytes, stored.format) == (len(document), "TIFF")
    assert client.submit(asking(ImagePart(image=stored.id, pages="7")))
