"""/v1/files over HTTP, with the official client where it has a method."""

import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from redis import Redis

from tests.producer.conftest import wait_until
from tests.producer.gateway.gateway_process import GatewayProcess

LINES = b'{"custom_id": "1"}\n' * 3


@pytest.fixture(scope="module")
def openai(gateway: GatewayProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def shared_redis(shared_redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(shared_redis_url) as redis:
        yield redis


def test_a_file_is_uploaded_described_read_and_deleted(openai: OpenAI) -> None:
    file = openai.files.create(file=("rows.jsonl", LINES), purpose="batch")

    assert (file.bytes, file.filename, file.purpose, file.object) == (len(LINES), "rows.jsonl", "batch", "file")
    assert openai.files.retrieve(file.id) == file
    assert openai.files.content(file.id).read() == LINES
    assert openai.files.delete(file.id).deleted
    for look in (openai.files.retrieve, openai.files.content, openai.files.delete):
        with pytest.raises(NotFoundError, match="there is no file"):
            look(file.id)


def test_content_of_several_pieces_comes_back_as_it_was_sent(openai: OpenAI, shared_redis: Redis) -> None:
    data = bytes(range(256)) * 4096 * 3 + b"end"
    file = openai.files.create(file=("big.jsonl", data), purpose="batch")

    assert openai.files.content(file.id).read() == data
    assert len(shared_redis.keys(f"vqa:file:{file.id}:*")) == 4
    openai.files.delete(file.id)
    assert not shared_redis.keys(f"vqa:file:{file.id}*")
    assert not shared_redis.hexists("vqa:files:sizes", file.id)


def test_a_file_expires_when_its_uploader_says(openai: OpenAI, shared_redis: Redis) -> None:
    file = openai.files.create(
        file=("rows.jsonl", LINES), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )

    assert file.expires_at == file.created_at + 7200
    for key in (f"vqa:file:{file.id}", f"vqa:file:{file.id}:0"):
        assert abs(shared_redis.expiretime(key) - file.expires_at) <= 1
    with pytest.raises(BadRequestError, match=r"expires_after\.seconds"):
        openai.files.create(
            file=("rows.jsonl", LINES), purpose="batch", expires_after={"anchor": "created_at", "seconds": 60}
        )


def test_lists_go_on_after_a_cursor_even_if_what_it_names_was_deleted(openai: OpenAI) -> None:
    for file in openai.files.list():
        openai.files.delete(file.id)
    ids = [openai.files.create(file=(f"{n}.jsonl", LINES), purpose="batch").id for n in range(5)]

    assert [file.id for file in openai.files.list(limit=2)] == ids[::-1]
    assert [file.id for file in openai.files.list(limit=2, order="asc")] == ids
    assert not openai.files.list(purpose="fine-tune").data
    page = openai.files.list(limit=2, order="asc")
    assert page.has_more
    openai.files.delete(ids[1])
    assert [file.id for file in openai.files.list(after=ids[1], order="asc")] == ids[2:]
    with pytest.raises(BadRequestError, match="after: no such id"):
        openai.files.list(after="file_nobody")


def _form(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> dict[str, Any]:
    body = b"".join(b"--b\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data + b"\r\n"
                    for head, data in parts)  # fmt: skip
    return {"content": body + end, "headers": {"content-type": "multipart/form-data; boundary=b"}}


FILE, PURPOSE = ('name="file"; filename="a.jsonl"', LINES), ('name="purpose"', b"batch")


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (_form(FILE), "purpose"),
        (_form(FILE, ('name="purpose"', b"fine-tune")), "purpose"),
        (_form(PURPOSE), "file"),
        (_form(PURPOSE, FILE, FILE), "only one file"),
        (_form(PURPOSE, FILE, end=b""), "ends before its last boundary"),
        (_form(PURPOSE, ('name="x"', b"x" * 5000)), "a field of the form"),
        (_form(*[(f'name="{n}"', b"") for n in range(30)]), "too many fields"),
        (_form(*[('name="the same"', b"")] * 30), "too many fields"),
        ({"json": {"purpose": "batch"}}, "multipart/form-data"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "multipart/form-data"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, "no valid multipart"),
    ],
)
def test_a_form_that_is_no_upload_is_refused_and_leaves_nothing(
    http: httpx2.Client, shared_redis: Redis, request_: dict[str, Any], says: str
) -> None:
    before = set(shared_redis.keys("vqa:file:*"))
    reply = http.post("/v1/files", **request_)

    assert reply.status_code == 400
    assert says in reply.json()["error"]["message"]
    assert set(shared_redis.keys("vqa:file:*")) == before


def test_the_file_may_come_before_its_purpose(http: httpx2.Client) -> None:
    assert http.post("/v1/files", **_form(FILE, PURPOSE)).json()["bytes"] == len(LINES)


def test_an_upload_that_is_cut_off_leaves_nothing(gateway: GatewayProcess, shared_redis: Redis) -> None:
    before = set(shared_redis.keys("vqa:file:*"))

    def half() -> Iterator[bytes]:
        yield _form(PURPOSE, FILE, end=b"")["content"].removesuffix(b"\r\n")
        yield b"x" * (3 * 2**20)
        until = time.monotonic() + 10
        while set(shared_redis.keys("vqa:file:*")) == before:
            assert time.monotonic() < until, "nothing was stored"
            time.sleep(0.01)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        httpx2.post(f"{gateway.url}/v1/files", content=half(), headers=_form()["headers"])
    until = time.monotonic() + 10
    while set(shared_redis.keys("vqa:file:*")) != before:
        assert time.monotonic() < until, "pieces are left"
        time.sleep(0.01)
    assert "Traceback" not in gateway.log.read_text()
    sizes = {name: int(size) for name, size in shared_redis.hgetall("vqa:files:sizes").items()}
    assert sizes.pop(b"sum", 0) == sum(sizes.values())


def test_a_download_whose_rest_is_gone_does_not_end_as_if_it_were_complete(
    openai: OpenAI, http: httpx2.Client, shared_redis: Redis, gateway: GatewayProcess
) -> None:
    file = openai.files.create(file=("big.jsonl", bytes(20 * 2**20)), purpose="batch")
    shared_redis.delete(f"vqa:file:{file.id}:19")

    with pytest.raises(httpx2.RemoteProtocolError):
        http.get(f"/v1/files/{file.id}/content")
    # a thread writes the log
    wait_until(lambda: "a download is cut off" in gateway.log.read_text(), "the cut is logged")
    assert "Traceback" not in gateway.log.read_text()
    openai.files.delete(file.id)
