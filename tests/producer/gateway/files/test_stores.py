"""The stores of files: limits, expiry, folders and object stores."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis import Redis

from producer.gateway.errors import BodyTooLarge, NotFound
from producer.gateway.files.files import Files
from producer.gateway.files.record import FileRecord
from producer.gateway.files.store import FileStoreFull
from producer.gateway.files.upload import Upload
from producer.ids import new_id
from vqa.errors import SettingsError
from vqa.gateway_settings import FilesSettings
from vqa.redis.connection import connect_async
from vqa.settings import QueueSettings

pytestmark = pytest.mark.anyio

HEAD = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n' \
    b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'  # fmt: skip


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def connection(queue_settings: QueueSettings) -> AsyncIterator[redis.asyncio.Redis]:
    async with connect_async(queue_settings) as connection:
        yield connection


def _upload(data: bytes, max_bytes: int = 2**30, step: int = 65_536, fails: bool = False) -> Upload:
    async def body() -> AsyncIterator[bytes]:
        whole = HEAD + data + b"\r\n--b--\r\n"
        for start in range(0, len(whole), step):
            yield whole[start : start + step]
            if fails and start > len(whole) / 2:
                raise ConnectionResetError

    return Upload("multipart/form-data; boundary=b", body(), max_bytes)


async def _content(files: Files, record: FileRecord, offset: int = 0) -> bytes:
    return b"".join([piece async for piece in files.content(record, offset)])


@pytest.fixture(params=["redis", "file", "memory"])
def files(request: pytest.FixtureRequest, connection: redis.asyncio.Redis, tmp_path: Path) -> Files:
    urls: dict[str, Any] = {"redis": None, "file": f"file://{tmp_path}/files", "memory": "memory:///"}
    return Files(connection, FilesSettings(url=urls[request.param]))


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 5 * 2**20])
async def test_what_is_stored_can_be_read_from_any_byte_on(files: Files, size: int) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    record = await files.receive(new_id("file", None), _upload(data))

    assert record.bytes == size
    for offset in {0, size // 2, max(0, size - 1), size}:
        assert await _content(files, record, offset) == data[offset:]


async def test_a_body_that_comes_byte_by_byte_is_read(files: Files) -> None:
    record = await files.receive(new_id("file", None), _upload(b"a\r\n--c\nb", step=1))

    assert await _content(files, record) == b"a\r\n--c\nb"


async def test_an_upload_that_breaks_off_leaves_nothing(files: Files, redis: Redis, tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError):
        await files.receive(new_id("file", None), _upload(bytes(30 * 2**20), fails=True))

    assert not redis.keys("vqa:file:*")
    assert not redis.zcard("vqa:files:expiring")
    assert not list(tmp_path.glob("files/*"))


async def test_a_file_over_its_limit_is_refused(files: Files, redis: Redis) -> None:
    with pytest.raises(BodyTooLarge, match="VQA_FILES_MAX_BYTES"):
        await files.receive(new_id("file", None), _upload(bytes(3 * 2**20), max_bytes=2 * 2**20))
    assert not redis.keys("vqa:file:*")


async def test_files_that_have_expired_are_swept_from_their_store(files: Files, redis: Redis, tmp_path: Path) -> None:
    id = new_id("file", None)
    record = await files.receive(id, _upload(b"data"))
    kept = await files.receive(new_id("file", None), _upload(b"kept"))
    redis.zadd("vqa:files:expiring", {id: 1, "another program's": 0})

    assert await files.sweep() == 2
    with pytest.raises(NotFound):
        await _content(files, record)
    with pytest.raises(NotFound):
        await files.get(id)
    assert await _content(files, kept) == b"kept"
    assert await files.sweep() == 0


async def test_redis_holds_no_more_bytes_of_files_than_it_may(connection: redis.asyncio.Redis, redis: Redis) -> None:
    files = Files(connection, FilesSettings(total_bytes=3 * 2**20))
    first = await files.receive(new_id("file", None), _upload(bytes(2 * 2**20)))

    with pytest.raises(FileStoreFull, match="VQA_FILES_TOTAL_BYTES"):
        await files.receive(new_id("file", None), _upload(bytes(2 * 2**20)))
    await files.delete(first.id)
    assert redis.hgetall("vqa:files:sizes") == {b"sum": b"0"}
    await files.receive(new_id("file", None), _upload(bytes(3 * 2**20)))


async def test_a_url_that_is_no_store_stops_the_gateway(connection: redis.asyncio.Redis) -> None:
    with pytest.raises(SettingsError, match="VQA_FILES_URL"):
        Files(connection, FilesSettings(url="ftp://somewhere/files"))
