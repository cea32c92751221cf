"""The clients' former method names still work, and say what replaces them."""

import asyncio

import pytest

from producer import AsyncClient, Batch, Client
from tests.producer.conftest import PlayedWorker
from vqa.settings import QueueSettings

ROWS = [{"id": "row", "messages": [{"role": "user", "content": "?"}]}]


def test_former_names_warn_and_work(client: Client, worker: PlayedWorker) -> None:
    with pytest.warns(DeprecationWarning, match=r"client\.submit_batch is deprecated; use client\.batches\.create"):
        batch = client.submit_batch(ROWS)
    with pytest.warns(DeprecationWarning, match=r"client\.batches\.retrieve"):
        assert isinstance(client.batch(batch.id), Batch)
    with pytest.warns(DeprecationWarning, match=r"client\.batches\.list\(\)"):
        assert [state.id for state in client.batches(limit=5)] == [batch.id]
    [(id, _)] = batch.rows(0)
    worker.give_up(id)
    with pytest.warns(DeprecationWarning, match=r"client\.dead_letters\.list\(\)"):
        assert [letter.id for letter in client.dead_letters("attempts_used_up")] == [id]
    with pytest.warns(DeprecationWarning, match=r"client\.dead_letters\.get"):
        assert client.dead_letter(id) is not None
    with pytest.warns(DeprecationWarning, match=r"client\.dead_letters\.count"):
        assert client.count_dead() == 1
    with pytest.warns(DeprecationWarning, match=r"client\.dead_letters\.retry"):
        assert client.retry_dead([id]) == {id: "reopened"}
    with pytest.warns(DeprecationWarning, match=r"client\.dead_letters\.purge"):
        assert client.purge_dead([id]) == 0
    with pytest.warns(DeprecationWarning, match=r"client\.image_sizes"):
        assert client.picture_sizes([]) == {}


def test_the_asyncio_client_has_them_too(queue_settings: QueueSettings) -> None:
    async def body() -> None:
        async with AsyncClient(queue_settings) as client:
            with pytest.warns(DeprecationWarning, match=r"batches\.create"):
                batch = await client.submit_batch(ROWS)
            with pytest.warns(DeprecationWarning, match=r"batches\.list"):
                assert [state.id for state in await client.batches()] == [batch.id]
            assert await client.batches.cancel(batch.id) == 1

    asyncio.run(body())


def test_an_unknown_attribute_is_an_error(client: Client) -> None:
    assert not hasattr(client, "no_such_method")
