"""Rows whose images are URLs: of every form, fetched ahead, and what becomes of those that cannot be fetched."""

import asyncio
import json
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from redis import Redis

from producer import Answer, Job
from producer.bulk import image_loader
from producer.bulk.image_loader import ImageLoader, LoadedRow, PendingRow
from producer.images.reader import ImageReader
from producer.inputs import Row
from tests.producer.bulk.conftest import Submit, answers, chat, codes, lines, write
from tests.producer.conftest import PlayedWorker, echo
from tests.producer.image_host import ImageHost, failing, image
from tests.vqa.fetch.site import Reply
from vqa.images.store import reference
from vqa.settings import QueueSettings


def image_part(url: str, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def asking(custom_id: str, url: str, question: str, **fields: Any) -> dict[str, Any]:
    return chat(
        custom_id,
        "",
        messages=[{"role": "user", "content": [image_part(url, **fields), {"type": "text", "text": question}]}],
    )


def noting(asked: list[Job]) -> Callable[..., Any]:
    def note(job: Job, lease: Any) -> Answer:
        asked.append(job)
        outcome = echo(job, lease)
        assert isinstance(outcome, Answer)
        return outcome

    return note


def test_rows_of_an_openai_batch_may_have_urls(
    allowed_host: ImageHost, submit: Submit, answering: Callable[..., None], tmp_path: Path, png: bytes
) -> None:
    asked: list[Job] = []
    answering(noting(asked))
    rows = [asking(f"r{n}", allowed_host.url(f"{n % 3}.png"), f"{n}?", detail="high") for n in range(9)]
    done = submit(write(tmp_path / "rows.jsonl", rows), "-o", "out.jsonl")
    assert (done.returncode, done.stderr.splitlines()[0]) == (0, "9 answered, 0 failed")
    assert answers(tmp_path / "out.jsonl") == {f"r{n}": f"{n}?" for n in range(9)}
    assert {(part.image, part.detail) for job in asked for part in job.images()} == {(reference(png), "high")}
    # each once: they are read ahead together
    assert sorted(allowed_host.paths()) == ["/0.png", "/1.png", "/2.png"]


def test_short_rows_and_tables_may_have_urls(
    allowed_host: ImageHost, submit: Submit, answering: Callable[..., None], tmp_path: Path
) -> None:
    asked: list[Job] = []
    answering(noting(asked))
    short = write(tmp_path / "rows.jsonl", [{"id": "a", "image": allowed_host.url(), "question": "?", "pages": "1"}])
    table = tmp_path / "rows.csv"
    table.write_text(f"id,image,question,detail,max_image_tokens\na,{allowed_host.url()},?,low,64\nb,,?,,\n")
    assert submit(short, "-o", "short.jsonl", "--detail", "high").returncode == 0
    done = submit(table, "-o", "table.jsonl", "--column", "detail", "--column", "max_image_tokens")
    assert done.returncode == 3
    first, second = asked
    assert [(part.detail, part.pages) for part in first.images()] == [("high", "1")]
    assert [part.detail for part in second.images()] == ["low"]
    assert second.max_image_tokens == 64


def test_a_row_without_its_image_fails_and_one_whose_server_is_away_waits_for_the_next_run(
    allowed_host: ImageHost, submit: Submit, echoing: None, tmp_path: Path, png: bytes
) -> None:
    away = failing("503 Service Unavailable", Retry_After="3600")
    allowed_host.replies(by_path({"/gone.png": failing("404 Not Found"), "/away.png": away}))
    rows = [asking(name, allowed_host.url(f"{name}.png"), f"{name}?") for name in ("gone", "away")]
    rows += [chat("words", "Words?")]
    waiting = submit(write(tmp_path / "rows.jsonl", rows), "-o", "out.jsonl")
    assert waiting.returncode == 75
    assert "1 rows have an image that could not be fetched for the moment; run the same command again" in waiting.stderr
    assert answers(tmp_path / "out.jsonl") == {"words": "Words?"}
    assert codes(tmp_path / "out.errors.jsonl") == {"gone": "bad_image"}
    # the next run has the row that waits, and no other
    allowed_host.replies(image(png))
    again = submit(tmp_path / "rows.jsonl", "-o", "out.jsonl")
    assert again.returncode == 3
    assert answers(tmp_path / "out.jsonl") == {"words": "Words?", "away": "away?"}
    assert "s3cr3t" not in waiting.stderr + again.stderr


def test_a_stream_has_a_line_for_every_row(allowed_host: ImageHost, submit: Submit, tmp_path: Path) -> None:
    allowed_host.replies(failing("503 Service Unavailable", Retry_After="3600"))
    rows = write(tmp_path / "rows.jsonl", [{"id": "away", "image": allowed_host.url(), "question": "?"}])
    done = submit(rows)
    [line] = [json.loads(each) for each in done.stdout.splitlines()]
    assert (done.returncode, line["id"], line["error"]["code"]) == (3, "away", "image_unavailable")
    assert "s3cr3t" not in done.stdout + done.stderr


def test_rows_of_a_detached_batch_are_fetched_before_the_command_ends(
    allowed_host: ImageHost, submit: Submit, tmp_path: Path, worker: PlayedWorker, redis: Redis, png: bytes
) -> None:
    rows = write(tmp_path / "rows.jsonl", [{"id": "a", "image": allowed_host.url(), "question": "?"}])
    done = submit(rows, "--detach")
    assert done.returncode == 0
    [id] = [json.loads(message)["headers"]["id"] for message in redis.lrange("bulk", 0, -1)]
    assert [part.image for part in Job.from_json(worker.take(id).payload).images()] == [reference(png)]


def test_urls_are_left_to_workers_that_fetch(
    host: ImageHost, submit: Submit, environment: dict[str, str], tmp_path: Path, worker: PlayedWorker, redis: Redis
) -> None:
    environment["VQA_FETCH"] = "worker"
    rows = write(tmp_path / "rows.jsonl", [asking("a", host.url(), "?")])
    assert submit(rows, "--detach").returncode == 0
    [id] = [json.loads(message)["headers"]["id"] for message in redis.lrange("bulk", 0, -1)]
    assert [part.image for part in Job.from_json(worker.take(id).payload).images()] == [host.url()]
    environment["VQA_FETCH_HOSTS"] = "images.example.com"
    refused = submit(rows, "-o", "out.jsonl")
    assert (refused.returncode, codes(tmp_path / "out.errors.jsonl")) == (3, {"a": "bad_image"})
    assert host.site.connections == 0


def by_path(replies: Mapping[str, Reply]) -> Reply:
    async def reply(head: bytes, writer: asyncio.StreamWriter) -> None:
        await replies[head.split()[1].decode().partition("?")[0]](head, writer)

    return reply


def row(number: int, url: str) -> PendingRow:
    parts = [{"type": "image", "image": url}, {"type": "text", "text": "?"}]
    return PendingRow(f"job-{number}", Row(number, f"r{number}", {"messages": [{"role": "user", "content": parts}]}))


def test_images_are_fetched_ahead_as_far_as_memory_allows(
    allowed_host: ImageHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_loader, "BYTES_AHEAD", 4 * 2**20)
    # 2 MiB
    large = BytesIO()
    Image.new("RGB", (836, 836)).save(large, "BMP")
    allowed_host.replies(image(large.getvalue()))
    read: list[int] = []

    def rows() -> Any:
        for number in range(12):
            read.append(number)
            yield row(number, allowed_host.url(f"{number}.png"))

    reader = ImageReader(QueueSettings())
    with ImageLoader(reader) as loader:
        loaded: list[LoadedRow] = []
        ahead = []
        for found in loader.load(rows()):
            loaded.append(found)
            assert found.error is None
            ahead.append(len(read) - len(loaded))
    reader.close()
    assert [each.id for each in loaded] == [f"job-{number}" for number in range(12)]
    # until the first are there, each counts as 1 MiB
    assert ahead[0] <= 4
    assert max(ahead[4:]) <= 3


@pytest.mark.parametrize("kind", ["frames", "video"])
def test_a_row_may_show_a_video(
    allowed_host: ImageHost, submit: Submit, answering: Callable[..., None], tmp_path: Path, kind: str
) -> None:
    asked: list[Job] = []
    answering(noting(asked))
    shown = {"frames": [allowed_host.url("1.png"), allowed_host.url("2.png")]} if kind == "frames" else {}
    shown |= {"video": allowed_host.url("clip.png")} if kind == "video" else {"times_s": [0, 0.5]}
    rows = write(tmp_path / "rows.jsonl", [{"id": "a", "question": "?", **shown}])
    assert submit(rows, "-o", "out.jsonl").returncode == 0
    [part] = asked[0].videos()
    assert len(part.contents) == (2 if kind == "frames" else 1)
    assert lines(tmp_path / "out.jsonl")[0]["answer"] == "?"
