"""Images that jobs name by URL, fetched by a real worker under its own rules from a real server."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from celery import Celery
from redis import Redis

from tests.e2e.conftest import until
from tests.vqa.fetch.site import Site, response, says, served
from tests.worker_process import ROOT, StartWorker
from vqa.celery import TASK
from vqa.inbox import INBOX
from vqa.ledger.commands import outcome_key

IMAGE = (ROOT / "examples" / "images" / "shape-07.png").read_bytes()
SECRET = "token-of-the-url"


@pytest.fixture
def site() -> Iterator[Site]:
    """A server of one image; it fails once at /flaky, and always at /broken."""
    seen: list[bytes] = []

    async def reply(head: bytes, writer: asyncio.StreamWriter) -> None:
        path = head.split()[1]
        first = path not in seen
        seen.append(path)
        if path.startswith((b"/broken", b"/flaky")) and (first or path.startswith(b"/broken")):
            # for longer than a fetch may take: the job's own retry policy decides
            await says(response(b"", "503 Service Unavailable", None, Retry_After="60"))(head, writer)
        elif path.startswith(b"/page"):
            await says(response(b"<html>", content_type="text/html"))(head, writer)
        else:
            await says(response(IMAGE))(head, writer)

    site = Site(reply)
    with served(site):
        yield site


def job(id: str, *urls: str, **fields: Any) -> dict[str, Any]:
    content = [*({"type": "image", "image": url} for url in urls), {"type": "text", "text": "What is it?"}]
    retry = {"attempts": 2, "base_s": 0.1, "cap_s": 0.1}
    return {"id": id, "messages": [{"role": "user", "content": content}], "retry": retry, **fields}


def outcomes(redis: Redis, *jobs: dict[str, Any]) -> list[dict[str, Any]]:
    """Send the jobs through the inbox, and wait for their outcomes."""
    for each in jobs:
        redis.xadd(INBOX, {"job": json.dumps(each)})
    keys = [outcome_key(each["id"]) for each in jobs]
    until(lambda: redis.exists(*keys) == len(keys))
    return [cast(dict[str, Any], json.loads(cast(bytes, redis.get(key)))) for key in keys]


def test_a_worker_fetches_what_its_settings_allow(
    redis: Redis, start_worker: StartWorker, site: Site, other_app: Celery
) -> None:
    worker = start_worker(
        VQA_FETCH="worker",
        VQA_FETCH_HOSTS=f"http://127.0.0.1:{site.port}",
        VQA_FETCH_PRIVATE="1",
        VQA_FETCH_TIMEOUT_S="5",
        VQA_REUSE_TTL_S="60",
    )
    url = f"http://127.0.0.1:{site.port}"
    three = (f"{url}/a.png?{SECRET}", f"{url}/b.png", f"{url}/a.png?{SECRET}")
    (several,) = outcomes(redis, job("several", *three, reuse=True))
    again, flaky, broken, page, denied, metadata = outcomes(
        redis,
        job("again", *three, reuse=True),
        job("flaky", f"{url}/flaky?{SECRET}"),
        job("broken", f"{url}/broken?{SECRET}"),
        job("page", f"{url}/page?{SECRET}"),
        job("denied", f"https://images.example/{SECRET}"),
        job("metadata", f"http://169.254.169.254:{site.port}/{SECRET}"),
    )
    assert [each["source_width"] for each in several["result"]["images"]] == [210] * 3
    # what a URL leads to may change: the answer is computed anew
    assert (again["result"]["text"], again["result"]["reused"]) == (several["result"]["text"], False)
    assert flaky["result"]["attempt"] == 2
    assert flaky["result"]["last_error"].startswith("ImageUnavailable: 127.0.0.1: the server answers with HTTP 503")
    assert broken["result"]["exc_type"] == "JobGivenUp"
    assert page["result"]["exc_type"] == denied["result"]["exc_type"] == metadata["result"]["exc_type"] == "BadImage"
    assert "text/html" in str(page["result"])
    assert "VQA_FETCH_HOSTS" in str(denied["result"])
    assert "VQA_FETCH_HOSTS" in str(metadata["result"])
    # of one job, each distinct URL was asked for once
    assert sum(head.startswith(b"GET /b.png ") for head in site.requests) == 2

    # another service's Celery message
    other_app.send_task(TASK, args=[job("foreign", f"{url}/c.png")], task_id="foreign", queue="interactive")
    until(lambda: redis.exists(outcome_key("foreign")))
    assert json.loads(cast(bytes, redis.get(outcome_key("foreign"))))["status"] == "SUCCESS"

    # no image went through Redis, and no URL's query into a log or a message
    assert redis.keys("vqa:image:*") == []
    assert SECRET not in worker.log.read_text()
    assert not any(SECRET in str(each) for each in (flaky, broken, page, denied, metadata))
