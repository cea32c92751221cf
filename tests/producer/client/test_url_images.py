"""Images that jobs name by URL are fetched when the jobs are submitted, from a real server over https."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from producer import Answer, AsyncClient, BadImage, Client, ImageUnavailable, Job
from tests.producer.conftest import PlayedWorker, Vqa
from tests.producer.image_host import ImageHost, failing, image, slow
from vqa.fetch.settings import FetchSettings
from vqa.images.store import ImageStore, image_key, reference
from vqa.settings import QueueSettings


@pytest.fixture
def client(allowed_host: ImageHost, queue_settings: QueueSettings) -> Any:
    with Client(queue_settings) as client:
        yield client


def taken(worker: PlayedWorker, id: str) -> Job:
    """The job as a worker gets it."""
    return Job.from_json(worker.take(id).payload)


def test_a_job_is_submitted_with_the_image_that_its_url_has(
    client: Client, allowed_host: ImageHost, worker: PlayedWorker, redis: Redis, png: bytes
) -> None:
    job = taken(worker, client.submit(Job.about(allowed_host.url(), "What is it?", detail="high")))
    [part] = job.images()
    assert (part.image, part.detail) == (reference(png), "high")
    assert ImageStore(redis).get(reference(png)) == png
    assert allowed_host.paths() == ["/cat.png"]


def test_messages_may_have_urls_wherever_images_are(
    client: Client, allowed_host: ImageHost, worker: PlayedWorker, png: bytes
) -> None:
    parts = [
        {"type": "image", "image": allowed_host.url("a.png")},
        {"type": "image", "image": png},
        {"type": "video", "frames": [allowed_host.url("b.png"), allowed_host.url("a.png")], "times_s": [0, 1]},
        {"type": "video", "video": allowed_host.url("c.png")},
    ]
    job = taken(worker, client.submit(Job(messages=[{"role": "user", "content": parts}])))
    assert set(job.contents()) == {reference(png)}
    assert sorted(allowed_host.paths()) == ["/a.png", "/b.png", "/c.png"]


def test_each_url_is_fetched_once_for_all_jobs_of_a_submission(
    client: Client, allowed_host: ImageHost, worker: PlayedWorker, png: bytes
) -> None:
    allowed_host.replies(slow(png, 0.02))
    jobs = [Job.about(allowed_host.url(f"{number % 20}.png"), "?") for number in range(60)]
    assert client.submit_many(jobs) == [job.id for job in jobs]
    assert len(allowed_host.paths()) == 20
    # several at once
    assert 1 < allowed_host.site.peak <= 16
    assert [part.image for part in taken(worker, jobs[59].id).images()] == [reference(png)]


def test_rows_of_a_batch_may_have_urls(client: Client, allowed_host: ImageHost, worker: PlayedWorker) -> None:
    rows = [{"id": "a", "image": allowed_host.url(), "question": "?", "detail": "low"}]
    batch = client.batches.create(rows)
    [(id, _)] = batch.rows(0)
    assert [part.detail for part in taken(worker, id).images()] == ["low"]
    assert allowed_host.paths() == ["/cat.png"]


def test_an_image_is_stored_from_its_url(client: Client, allowed_host: ImageHost, png: bytes) -> None:
    stored = client.images.upload(allowed_host.url())
    assert (stored.bytes, stored.width, stored.reference) == (len(png), 64, reference(png))


def test_the_asyncio_client_fetches_too(allowed_host: ImageHost, queue_settings: QueueSettings, echoing: None) -> None:
    async def run() -> None:
        async with AsyncClient(queue_settings) as client:
            await client.images.check(allowed_host.url("0.png"))
            with pytest.raises(BadImage, match="VQA_FETCH_HOSTS"):
                await client.images.check("https://elsewhere.example/0.png")
            assert (await client.ask(allowed_host.url("1.png"), "Red?")).text == "Red?"
            async with client.stream(Job.about(allowed_host.url("2.png"), "Blue?")) as stream:
                text = "".join([piece.text async for piece in stream])
            assert stream.answer is not None
            assert stream.answer.text == (text or "Blue?")
            jobs = [Job.about(allowed_host.url(f"{number}.png"), f"{number}?") for number in range(3, 9)]
            outcomes = {id: outcome async for id, outcome in client.ask_many(jobs)}
            assert all(isinstance(outcomes[job.id], Answer) for job in jobs)
            assert await client.submit_many([Job.about(allowed_host.url("9.png"), "?")])
            allowed_host.replies(failing("404 Not Found"))
            bad = Job.about(allowed_host.url("10.png"), "?")
            with pytest.raises(BadImage, match=f"^job {bad.id}: "):
                await client.submit(bad)
            assert [type(outcome) async for _, outcome in client.ask_many([bad])] == [BadImage]

    asyncio.run(run())
    assert sorted(allowed_host.paths()) == sorted(f"/{number}.png" for number in (*range(1, 11), 10))


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (failing("404 Not Found"), BadImage),
        (image(b"<html>an error page</html>"), BadImage),
        (image(b"\x89PNG\r\n\x1a\n" + bytes(100)), BadImage),
        (failing("503 Service Unavailable", Retry_After="3600"), ImageUnavailable),
    ],
    ids=["not found", "a page", "a broken image", "unavailable"],
)
def test_what_cannot_be_fetched_is_an_error_of_its_job(
    client: Client, allowed_host: ImageHost, redis: Redis, reply: Any, kind: type[Exception]
) -> None:
    allowed_host.replies(reply)
    job = Job.about(allowed_host.url(), "What is it?")
    with pytest.raises(kind, match=f"^job {job.id}: ") as error:
        client.submit(job)
    assert "s3cr3t" not in str(error.value)
    with pytest.raises(kind):
        client.submit_many([job])
    assert client.states([job.id])[job.id].state == "unknown"
    assert not redis.keys("vqa:image:*")


def test_of_many_questions_those_fail_whose_images_cannot_be_fetched(
    client: Client, allowed_host: ImageHost, echoing: None, png: bytes
) -> None:
    good, bad = Job.about(allowed_host.url("good.png"), "Good?"), Job.about("https://elsewhere.example/a.png", "Bad?")
    words = [Job(messages=[{"role": "user", "content": f"{number}?"}]) for number in range(5)]
    outcomes = dict(client.ask_many([*words[:2], bad, good, *words[2:]]))
    assert outcomes.keys() == {job.id for job in (*words, bad, good)}
    error = outcomes.pop(bad.id)
    assert isinstance(error, BadImage)
    assert "VQA_FETCH_HOSTS" in str(error)
    assert all(isinstance(outcome, Answer) for outcome in outcomes.values())
    # all of them
    assert [type(outcome) for _, outcome in client.ask_many([bad])] == [BadImage]


def test_nothing_is_fetched_unless_a_setting_allows_it(
    host: ImageHost, queue_settings: QueueSettings, redis: Redis
) -> None:
    with Client(queue_settings) as client, pytest.raises(BadImage, match="VQA_FETCH_HOSTS"):
        client.ask(host.url(), "?")
    elsewhere = FetchSettings(hosts="images.example.com")
    with Client(queue_settings, fetch_settings=elsewhere) as client, pytest.raises(BadImage, match="VQA_FETCH_HOSTS"):
        client.submit(Job.about(host.url(), "?"))
    with Client(queue_settings) as client, pytest.raises(BadImage, match="VQA_FETCH_BUCKETS"):
        client.images.upload("s3://cats/cat.png")
    assert host.site.connections == 0


def test_urls_are_left_to_workers_that_fetch(
    host: ImageHost, queue_settings: QueueSettings, worker: PlayedWorker, redis: Redis
) -> None:
    with Client(queue_settings, fetch="worker") as client:
        job = taken(worker, client.submit(Job.about(host.url(), "?")))
        assert [part.image for part in job.images()] == [host.url()]
        assert client.submit_many([Job.about("s3://cats/cat.png", "?")])
    # where the settings are known, they are heeded at once
    with Client(queue_settings, fetch="worker", fetch_settings=FetchSettings(hosts="images.example.com")) as client:
        with pytest.raises(BadImage, match="VQA_FETCH_HOSTS"):
            client.submit(Job.about(host.url(), "?"))
        assert client.submit(Job.about("https://images.example.com/cat.png", "?"))
    assert host.site.connections == 0
    assert not redis.keys("vqa:image:*")


def test_files_lie_in_the_allowed_folders_where_these_are_set(
    queue_settings: QueueSettings, tmp_path: Path, png: bytes, echoing: None, vqa: Vqa
) -> None:
    allowed, elsewhere = tmp_path / "allowed", tmp_path / "elsewhere"
    for folder in (allowed, elsewhere):
        folder.mkdir()
        (folder / "cat.png").write_bytes(png)
    (allowed / "link.png").symlink_to(elsewhere / "cat.png")
    with Client(queue_settings, fetch_settings=FetchSettings(roots=str(allowed))) as client:
        assert client.ask(allowed / "cat.png", "Here?").text == "Here?"
        for path in (elsewhere / "cat.png", allowed / "link.png"):
            with pytest.raises(BadImage, match="VQA_FETCH_ROOTS"):
                client.ask(str(path), "There?")
        with pytest.raises(BadImage, match="VQA_FETCH_ROOTS"):
            client.images.upload(elsewhere / "cat.png")
    there = vqa("ask", elsewhere / "cat.png", "There?", env={"VQA_FETCH_ROOTS": str(allowed)})
    assert (there.returncode, "VQA_FETCH_ROOTS" in there.stderr) == (1, True)


def test_the_command_asks_about_a_url(vqa: Vqa, allowed_host: ImageHost, answering: Callable[..., None]) -> None:
    from tests.producer.conftest import echo
    from vqa.answer import SeenImage

    seen = SeenImage(source_width=40, source_height=30, frames=3)
    answering(lambda job, lease: echo(job, lease).model_copy(update={"images": (seen,)}))
    asked = vqa("ask", allowed_host.url(), "What colour?", env=allowed_host.variables)
    assert (asked.returncode, asked.stdout) == (0, "What colour?\n")
    assert "s3cr3t" not in asked.stderr
    refused = vqa("ask", allowed_host.url(), "What colour?", env={"VQA_FETCH_HOSTS": "images.example.com"})
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "VQA_FETCH_HOSTS does not allow it" in refused.stderr
    allowed_host.replies(failing("503 Service Unavailable", Retry_After="3600"))
    later = vqa("ask", allowed_host.url(), "What colour?", env=allowed_host.variables)
    # the same command may succeed later
    assert (later.returncode, later.stderr.startswith("vqa: ImageUnavailable: ")) == (75, True)
    assert "s3cr3t" not in later.stderr


def test_the_store_is_asked_again_for_an_image_that_was_fetched_before(
    client: Client, allowed_host: ImageHost, redis: Redis, png: bytes
) -> None:
    client.submit(Job.about(allowed_host.url(), "?"))
    redis.delete(image_key(reference(png)))
    client.submit(Job.about(allowed_host.url(), "Again?"))
    assert len(allowed_host.paths()) == 2
    assert ImageStore(redis).get(reference(png)) == png


def test_the_command_passes_on_how_the_image_is_shown(
    vqa: Vqa, answering: Callable[..., None], tmp_path: Path, png: bytes
) -> None:
    from tests.producer.conftest import echo

    (tmp_path / "cat.png").write_bytes(png)
    asked: list[Job] = []

    def note(job: Job, lease: Any) -> Answer:
        asked.append(job)
        outcome = echo(job, lease)
        assert isinstance(outcome, Answer)
        return outcome

    answering(note)
    options = ["--detail", "high", "--max-image-tokens", "512", "--shrink-images", "--pages", "1"]
    assert vqa("ask", tmp_path / "cat.png", "?", *options).returncode == 0
    assert vqa("ask", tmp_path / "cat.png", "?", "--video", "--fps", "2", "--max-frames", "8").returncode == 0
    first, second = asked
    [shown] = first.images()
    assert (shown.detail, shown.pages, first.max_image_tokens, first.shrink_images) == ("high", "1", 512, True)
    [video] = second.videos()
    assert (video.fps, video.max_frames, json.loads(second.to_json())["version"]) == (2, 8, 4)
