"""What receivers hear: signed events, one for each end of a job or batch."""

import time

import httpx2
import openai
import pytest
import standardwebhooks
from openai.types.webhooks import BatchCompletedWebhookEvent
from redis import Redis

from producer import Client, JobGivenUp, PromptTooLong
from producer.client.batches import cancel_batch
from producer.client.job_queue import JobQueue
from tests.producer.conftest import MakeJob, PlayedWorker, answer
from tests.producer.gateway.webhooks.conftest import Process, Rounds, due_now, look_now
from tests.producer.gateway.webhooks.receiver import SECRET, Receiver
from vqa.ledger.batches import Batches
from vqa.ledger.ledger import Ledger
from vqa.settings import QueueSettings


def test_an_answered_job_is_told_once_and_without_its_answer(
    rounds: Rounds, receiver: Receiver, redis: Redis, client: Client, worker: PlayedWorker, question: MakeJob
) -> None:
    async def body(process: Process) -> None:
        job = question("What secret is it?")
        await process.records.watch(job.id, receiver.url, "", "")
        client.submit(job)
        look_now(redis)
        await process.watch.look()
        await process.deliver()
        assert receiver.received == []
        worker.close(job.id, answer(job.id, "a secret answer"))
        for _ in range(3):
            look_now(redis)
            await process.watch.look()
            due_now(redis)
            await process.deliver()
        [request] = receiver.received
        event = request.verified()
        assert event.pop("created_at") == pytest.approx(time.time(), abs=10)
        assert event == {"id": request.id, "object": "event", "type": "vqa.job.answered", "data": {"id": job.id}}
        assert request.id.startswith("evt_")
        assert request.headers["content-type"] == "application/json"
        assert b"secret" not in request.body
        # nothing is left to do, and no secret is kept
        assert redis.zcard("vqa:webhooks:watched") == redis.zcard("vqa:webhooks:due") == 0
        assert redis.hmget(f"vqa:webhook:{job.id}", "state", "secret", "body") == [b"delivered", None, None]

    rounds(body)


def test_a_failed_job_is_told_with_its_code(
    rounds: Rounds, receiver: Receiver, redis: Redis, client: Client, worker: PlayedWorker, question: MakeJob
) -> None:
    async def body(process: Process) -> None:
        failed, given_up, cancelled, late = (question() for _ in range(4))
        late = late.model_copy(update={"timeout_s": 0.01})
        for job in (failed, given_up, cancelled, late):
            await process.records.watch(job.id, receiver.url, "", "")
        client.submit_many([failed, given_up, cancelled, late])
        worker.close(failed.id, PromptTooLong("too long"))
        worker.give_up(given_up.id)
        client.cancel(cancelled.id)
        # no worker and no janitor is there to close this one
        time.sleep(1.1)
        look_now(redis)
        await process.watch.look()
        await process.deliver()
        events = [request.verified() for request in receiver.received]
        assert {event["type"] for event in events} == {"vqa.job.failed"}
        assert {event["data"]["id"]: event["data"]["code"] for event in events} == {
            failed.id: PromptTooLong.code(),
            given_up.id: JobGivenUp.code(),
            cancelled.id: "cancelled",
            late.id: "deadline_exceeded",
        }

    rounds(body)


def test_the_ends_of_batches_are_events_that_openais_client_reads(
    rounds: Rounds, receiver: Receiver, redis: Redis, queue_settings: QueueSettings, client: Client, echoing: None
) -> None:
    async def body(process: Process) -> None:
        rows = [{"id": "a", "messages": [{"role": "user", "content": "?"}]}]
        done = client.batches.create(rows)
        done.wait(30)
        batches, queue = Batches(redis), JobQueue(queue_settings)
        ids = {status: f"batch_{status}" for status in ("cancelled", "failed", "expired")}
        for id in ids.values():
            batches.create(id, "bulk")
        cancel_batch(queue, ids["cancelled"])
        batches.set_status(ids["failed"], "failed")
        redis.hset(f"vqa:batch:{ids['expired']}", mapping={"status": "expired", "expired_at": 1_700_000_000_999})
        queue.close()
        batches.create("batch_open", "bulk")
        for id in (done.id, *ids.values(), "batch_open"):
            await process.records.watch(id, receiver.url, "", "")
        look_now(redis)
        await process.watch.look()
        await process.deliver()
        told = {event["data"]["id"]: event for event in (request.verified() for request in receiver.received)}
        assert {id: event["type"] for id, event in told.items()} == {
            done.id: "batch.completed",
            **{id: f"batch.{status}" for status, id in ids.items()},
        }
        assert told[ids["expired"]]["created_at"] == 1_700_000_000
        [request] = [each for each in receiver.received if done.id.encode() in each.body]
        with openai.OpenAI(api_key="-", webhook_secret=SECRET, http_client=httpx2.Client()) as reader:
            event = reader.webhooks.unwrap(request.body, dict(request.headers))
        assert isinstance(event, BatchCompletedWebhookEvent)
        assert event.data.id == done.id

    rounds(body)


@pytest.fixture
def slow(redis: Redis) -> None:
    """A worker that has answered a job a second for five minutes."""
    Ledger(redis).renew("card0@host", [], 60, {"slots": 4})
    newest = redis.time()[0] // 10
    for age in range(31):
        redis.set(f"vqa:closed:bulk:{newest - age}", 10)


def begin(redis: Redis, id: str, s_ago: float) -> None:
    """A batch that takes 1,000 s at that rate, and may take 60 s."""
    batches = Batches(redis)
    batches.create(id, "bulk", expires_s=60)
    batches.expect(id, 1000)
    redis.hset(f"vqa:batch:{id}", "in_progress_at", round((redis.time()[0] - s_ago) * 1000))


@pytest.mark.usefixtures("slow")
def test_that_a_batch_will_be_late_is_told_once_to_who_asks(rounds: Rounds, receiver: Receiver, redis: Redis) -> None:
    async def body(process: Process) -> None:
        for id, late in (("batch_late", True), ("batch_silent", False)):
            begin(redis, id, s_ago=200)
            await process.records.watch(id, receiver.url, "", "", late)
        for _ in range(2):
            look_now(redis)
            await process.watch.look()
            await process.deliver()
        [event] = [request.verified() for request in receiver.received]
        assert (event["type"], event["data"]["id"]) == ("vqa.batch.late", "batch_late")
        assert event["data"]["ends_at"] > event["data"]["expires_at"]
        # its end is still to be told
        assert redis.zscore("vqa:webhooks:watched", "batch_late") is not None

    rounds(body)


@pytest.mark.usefixtures("slow")
def test_jobs_before_a_batch_alone_do_not_tell_that_it_will_be_late(
    rounds: Rounds, receiver: Receiver, redis: Redis
) -> None:
    # workers may have had less to do than they could
    async def body(process: Process) -> None:
        begin(redis, "batch_new", s_ago=1)
        await process.records.watch("batch_new", receiver.url, "", "", late=True)
        look_now(redis)
        await process.watch.look()
        await process.deliver()
        assert receiver.received == []
        assert redis.hget("vqa:webhook:batch_new", "late")

    rounds(body)


def test_lateness_that_two_processes_notice_is_told_once_and_not_after_the_end(
    rounds: Rounds, receiver: Receiver, redis: Redis
) -> None:
    async def body(process: Process) -> None:
        for id in ("batch_a", "batch_b"):
            await process.records.watch(id, receiver.url, "", "", late=True)
        await process.records.ended("batch_b", "batch.expired", '{"type":"batch.expired"}')
        for number, id in enumerate(("batch_a", "batch_a", "batch_b", "batch_gone")):
            await process.records.late(id, f"evt_{number}", "vqa.batch.late", '{"type":"vqa.batch.late"}')
        due_now(redis)
        await process.deliver()
        told = [(request.verified()["type"], request.id) for request in receiver.received]
        assert len(told) == 2
        assert ("vqa.batch.late", "evt_0") in told
        assert "batch.expired" in dict(told)

    rounds(body)


def test_a_key_signs_with_its_own_secret(
    rounds: Rounds, receiver: Receiver, redis: Redis, client: Client, worker: PlayedWorker, question: MakeJob
) -> None:
    own = "whsec_" + "YW5vdGhlciBzZWNyZXQgb2Ygb25lIEFQSSBrZXkgYWxvbmU="

    async def body(process: Process) -> None:
        job = question()
        await process.records.watch(job.id, receiver.url, own, "key_1")
        client.submit(job)
        worker.close(job.id, answer(job.id, "yes"))
        look_now(redis)
        await process.watch.look()
        await process.deliver()
        [request] = receiver.received
        assert request.verified(own)["data"] == {"id": job.id}
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            request.verified(SECRET)

    rounds(body)


def test_a_job_that_was_never_accepted_is_forgotten_after_a_minute(
    rounds: Rounds, receiver: Receiver, redis: Redis
) -> None:
    async def body(process: Process) -> None:
        await process.records.watch("refused", receiver.url, "", "")
        look_now(redis)
        await process.watch.look()
        # it may still be accepted
        assert redis.zrange("vqa:webhooks:watched", 0, -1) == [b"refused"]
        redis.hincrby("vqa:webhook:refused", "created", -61_000)
        look_now(redis)
        await process.watch.look()
        assert redis.zcard("vqa:webhooks:watched") == 0
        await process.deliver()
        assert receiver.received == []

    rounds(body)


def test_what_another_program_wrote_is_dropped_and_the_others_are_told(
    rounds: Rounds, receiver: Receiver, redis: Redis, client: Client, worker: PlayedWorker, question: MakeJob
) -> None:
    async def body(process: Process) -> None:
        job = question()
        client.submit(job)
        worker.close(job.id, answer(job.id, "yes"))
        for id in ("no-hash", "no-url", "no-number", "not-utf8", job.id):
            await process.records.watch(id, receiver.url, "", "")
        redis.set("vqa:webhook:no-hash", "x")
        redis.hdel("vqa:webhook:no-url", "url")
        redis.hset("vqa:webhook:no-number", "created", "yesterday")
        redis.hset("vqa:webhook:not-utf8", "url", b"\xff")
        look_now(redis)
        await process.watch.look()
        await process.deliver()
        assert [request.verified()["data"]["id"] for request in receiver.received] == [job.id]
        assert redis.zcard("vqa:webhooks:watched") == 0

    rounds(body)


def test_watching_again_changes_nothing(
    rounds: Rounds, receiver: Receiver, redis: Redis, client: Client, worker: PlayedWorker, question: MakeJob
) -> None:
    async def body(process: Process) -> None:
        job = question()
        client.submit(job)
        worker.close(job.id, answer(job.id, "yes"))
        for _ in range(2):
            await process.records.watch(job.id, receiver.url, "", "")
            await process.records.watch(job.id, receiver.url + "/other", "", "")
            look_now(redis)
            await process.watch.look()
            await process.deliver()
        assert [request.path for request in receiver.received] == ["/hook"]

    rounds(body)
