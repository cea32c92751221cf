"""Backpressure: a full lane or a full Redis refuses a job, whoever submits many waits, and reading goes on."""

import asyncio
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from producer import AsyncClient, Client, Job, QueueFull
from tests.producer.conftest import COMMAND, MakeJob, PlayedWorker, Vqa, answer, echo, wait_until
from vqa.settings import QueueSettings


@pytest.fixture
def narrow(queue_settings: QueueSettings) -> Iterator[Client]:
    """A client for which a lane has room for three jobs."""
    with Client(queue_settings, queue_most=3) as client:
        yield client


@pytest.fixture
def memory(redis: Redis) -> Iterator[Callable[[float], None]]:
    """Give Redis so many times as much memory as it uses."""

    def limit(times: float) -> None:
        redis.config_set("maxmemory", int(redis.info("memory")["used_memory"] * times))

    yield limit
    redis.config_set("maxmemory", 0)


def test_a_full_lane_refuses_a_job_and_keeps_nothing_of_it(
    narrow: Client, question: MakeJob, png: bytes, redis: Redis
) -> None:
    for _ in range(3):
        narrow.submit(question())
    with pytest.raises(QueueFull, match=r"interactive holds 3 open jobs.*VQA_QUEUE_MOST.*add workers"):
        narrow.submit(Job.about(png, "What is it?", id="q4"))
    assert narrow.states(["q4"])["q4"].state == "unknown"
    assert redis.keys("vqa:image:*") == []
    narrow.submit(question(lane="bulk"))


def test_there_is_room_again_as_soon_as_a_job_has_ended(
    narrow: Client, worker: PlayedWorker, question: MakeJob
) -> None:
    ids = [narrow.submit(question()) for _ in range(3)]
    for id in ids:
        with pytest.raises(QueueFull):
            narrow.submit(question())
        worker.close(id, answer(id, "done"))
        narrow.submit(question())


def test_a_job_that_is_known_is_not_refused(
    narrow: Client, worker: PlayedWorker, question: MakeJob, png: bytes
) -> None:
    known = Job.about(png, "What is it?", id="known")
    narrow.submit_many([known, question(id="ended"), question()])
    worker.close("ended", answer("ended", "done"))
    narrow.submit(question())
    assert narrow.submit(known) == "known"
    assert narrow.submit(question(id="ended")) == "ended"


def test_what_other_producers_submit_is_seen(narrow: Client, client: Client, question: MakeJob) -> None:
    narrow.submit(question())
    client.submit_many(question() for _ in range(5))
    with pytest.raises(QueueFull):
        narrow.submit(question())


def test_submitting_many_waits_for_room_and_sends_each_wake_up_once(
    narrow: Client, answering: Callable[..., None], question: MakeJob, redis: Redis
) -> None:
    jobs = [question(id=f"q{number}", lane="bulk") for number in range(10)]
    submitting = threading.Thread(target=narrow.submit_many, args=(jobs,))
    submitting.start()
    wait_until(lambda: redis.llen("bulk") == 3, "three jobs are on the queue")
    # it offers the rest again and again meanwhile
    time.sleep(1.5)
    assert redis.llen("bulk") == narrow.counts()["bulk"]["queued"] == 3
    taken: list[str] = []
    answering(lambda job, lease: taken.append(job.id) or echo(job, lease))
    submitting.join(timeout=30)
    assert not submitting.is_alive()
    outcomes = dict(narrow.answers([job.id for job in jobs], timeout_s=30))
    assert set(outcomes) == {job.id for job in jobs}
    assert taken == [job.id for job in jobs]


def test_answers_are_told_while_others_wait_for_room(
    narrow: Client, worker: PlayedWorker, answering: Callable[..., None], question: MakeJob, redis: Redis
) -> None:
    jobs = [question(id=f"q{number}", lane="bulk") for number in range(9)]
    narrow.submit_many(jobs[:2])

    def answer_the_third() -> None:
        wait_until(lambda: redis.llen("bulk") == 3, "the third job is on the queue")
        worker.close("q2", answer("q2", "first"))

    outcomes = narrow.ask_many(jobs[2:])
    closing = threading.Thread(target=answer_the_third)
    closing.start()
    assert next(outcomes) == ("q2", answer("q2", "first"))
    closing.join()
    answering(echo)
    assert {id for id, _ in outcomes} == {job.id for job in jobs[3:]}


def test_more_memory_than_its_share_refuses_before_images_are_sent(
    queue_settings: QueueSettings, memory: Callable[[float], None], png: bytes, redis: Redis
) -> None:
    memory(1.1)
    with Client(queue_settings) as client:
        job = Job.about(png, "What is it?", id="q1")
        with pytest.raises(QueueFull, match=r"\d+% of its maxmemory.*up to 80%.*raise maxmemory"):
            client.submit(job)
        assert redis.keys("vqa:*") == []
        submitting = threading.Thread(target=client.submit_many, args=([job],))
        submitting.start()
        time.sleep(0.5)
        assert submitting.is_alive()
        memory(100)
        submitting.join(timeout=10)
        assert client.states(["q1"])["q1"].state == "queued"


def test_redis_own_refusal_is_a_full_queue(
    client: Client, memory: Callable[[float], None], png: bytes, question: MakeJob
) -> None:
    client.submit(question())
    # so soon after, the client has not looked again
    memory(0.9)
    with pytest.raises(QueueFull, match="maxmemory"):
        client.submit(Job.about(png, "What is it?"))
    with pytest.raises(QueueFull, match="maxmemory"):
        client.submit(question(id="q2"))
    waiting = threading.Thread(target=client.submit_many, args=([question(id="q3")],))
    waiting.start()
    time.sleep(0.3)
    memory(100)
    waiting.join(timeout=10)
    assert [state.state for state in client.states(["q2", "q3"]).values()] == ["unknown", "queued"]


def test_in_a_full_redis_jobs_are_cancelled_at_once_though_nobody_can_be_told_who_moves_up(
    queue_settings: QueueSettings, memory: Callable[[float], None], question: MakeJob, redis: Redis
) -> None:
    with Client(queue_settings, tenant_most=10) as client:
        ids = client.submit_many(question(lane="bulk", tenant="one") for _ in range(20))
        memory(0.5)
        begun = time.monotonic()
        assert all(client.cancel(id) for id in ids[:10])
        # one more try each took 0.55 s
        assert time.monotonic() - begun < 4
        assert client.counts()["bulk"] == {"waiting": 0, "queued": 10, "leased": 0, "delayed": 0}
        assert redis.llen("bulk") == 10


def test_a_job_that_was_accepted_just_before_redis_was_full_is_not_refused(
    client: Client, memory: Callable[[float], None], question: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    client.submit(question(id="q1"))
    memory(0.9)
    client._queue._publish([("q1", "interactive")])
    assert "published by the janitor" in caplog.text


def test_a_full_redis_is_read_and_emptied_as_ever(
    client: Client, worker: PlayedWorker, memory: Callable[[float], None], question: MakeJob
) -> None:
    ids = client.submit_many(question(id=f"q{number}") for number in range(4))
    worker.give_up("q3")
    worker.take("q1")
    worker.close("q0", answer("q0", "before"))
    memory(0.9)
    assert client.answer("q0").text == "before"
    assert [state.state for state in client.states(ids).values()] == ["answered", "leased", "queued", "given_up"]
    assert client.cancel("q2")
    assert client.counts()["interactive"]["queued"] == 0
    assert [letter.id for letter in client.dead_letters.list()] == ["q3"]
    assert client.dead_letters.purge(["q3"]) == 1


def test_waiting_for_room_holds_no_thread_with_asyncio(
    queue_settings: QueueSettings, answering: Callable[..., None], question: MakeJob
) -> None:
    async def main() -> None:
        async with AsyncClient(queue_settings, queue_most=3) as client, asyncio.timeout(60):
            for _ in range(3):
                await client.submit(question(lane="bulk"))
            with pytest.raises(QueueFull):
                await client.submit(question(lane="bulk"))
            waits = [asyncio.create_task(client.submit_many([question(lane="bulk")])) for _ in range(20)]
            asking = [asyncio.create_task(_ends(client, [question(lane="bulk")])) for _ in range(5)]
            await asyncio.wait(waits, timeout=0.5)
            begun = time.monotonic()
            for _ in range(10):
                await client.counts()
            assert time.monotonic() - begun < 2
            assert not any(wait.done() for wait in waits)
            answering(echo)
            ids = [id for [id] in await asyncio.gather(*waits)]
            assert {id async for id, _ in client.answers(ids)} == set(ids)
            assert await asyncio.gather(*asking) == [1] * 5

    asyncio.run(main())


async def _ends(client: AsyncClient, jobs: list[Job]) -> int:
    return len([id async for id, _ in client.ask_many(jobs)])


def test_closing_ends_a_wait_for_room(narrow: Client, question: MakeJob) -> None:
    raised: list[BaseException] = []

    def submit() -> None:
        try:
            narrow.submit_many(question() for _ in range(5))
        except RuntimeError as error:
            raised.append(error)

    waiting = threading.Thread(target=submit)
    waiting.start()
    wait_until(lambda: narrow.counts()["interactive"]["queued"] == 3, "it waits")
    narrow.close()
    waiting.join(timeout=10)
    assert [str(error) for error in raised] == ["the client is closed; make another"]


def test_closing_ends_a_tasks_wait_for_room(queue_settings: QueueSettings, question: MakeJob) -> None:
    async def main() -> None:
        async with AsyncClient(queue_settings, queue_most=1) as client:
            waiting = asyncio.create_task(client.submit_many([question(), question()]))
            await asyncio.wait([waiting], timeout=0.5)
        with pytest.raises(RuntimeError, match="closed"):
            await asyncio.wait_for(waiting, 10)

    asyncio.run(main())


def test_a_long_wait_is_told_once(narrow: Client, question: MakeJob, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    waiting = threading.Thread(target=narrow.submit_many, args=([question() for _ in range(5)],))
    waiting.start()
    wait_until(lambda: "waiting for capacity" in caplog.text, "it says that it waits")
    narrow.dead_letters.purge([])
    for id in narrow._queue.redis.zrange("vqa:deadlines", 0, -1):
        narrow.cancel(id.decode())
    waiting.join(timeout=10)
    assert not waiting.is_alive()
    assert caplog.text.count("waiting for capacity: lane interactive holds 3 open jobs") == 1


def test_the_command_waits_for_room_and_says_so_once(
    environment: dict[str, str], answering: Callable[..., None], tmp_path: Path, png: bytes, redis: Redis
) -> None:
    (tmp_path / "teal.png").write_bytes(png)
    rows = "".join(f'{{"id": "q{number}", "image": "teal.png", "question": "?"}}\n' for number in range(6))
    (tmp_path / "questions.jsonl").write_text(rows)
    process = subprocess.Popen(
        [*COMMAND, "submit", tmp_path / "questions.jsonl"],
        env=environment | {"VQA_QUEUE_MOST": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    said = process.stderr.readline()
    assert said.startswith("vqa: waiting for capacity: lane bulk holds 2 open jobs")
    answering(echo)
    out, rest = process.communicate(timeout=60)
    assert process.returncode == 0
    assert rest.startswith("6 answered, 0 failed\n")
    assert len(out.splitlines()) == 6


def test_a_full_queue_is_a_temporary_failure_of_a_question(
    vqa: Vqa, client: Client, question: MakeJob, png: bytes, tmp_path: Path
) -> None:
    (tmp_path / "teal.png").write_bytes(png)
    client.submit(question())
    asked = vqa("ask", tmp_path / "teal.png", "What?", env={"VQA_QUEUE_MOST": "1"})
    assert (asked.returncode, asked.stdout) == (75, "")
    assert asked.stderr.startswith("vqa: QueueFull: lane interactive holds 1 open jobs")
    assert asked.stderr.count("\n") == 1
