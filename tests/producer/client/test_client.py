"""What a caller sees of the synchronous client, with real Redis and a worker played by the test."""

import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from redis import Redis

from producer import (
    Answer,
    AnswerTimeout,
    BadImage,
    Cancelled,
    Client,
    DeadlineExceeded,
    EngineError,
    ImageMissing,
    ImagePart,
    Job,
    PromptTooLong,
    QueueUnavailable,
    SettingsError,
    UnknownJob,
    VQAError,
)
from producer.client.waiters import _GATHER_ABOVE, _GATHER_S
from producer.demo.redis_server import free_port
from tests.producer.conftest import MakeJob, PlayedWorker, answer, echo
from vqa.ledger.batches import Batches
from vqa.ledger.ledger import Lease
from vqa.settings import QueueSettings


def test_a_question_is_answered(client: Client, echoing: None, png: bytes) -> None:
    got = client.ask(png, "What colour is it?", max_new_tokens=8)
    assert got.text == "What colour is it?"
    assert got.worker == "played@here"


def test_a_failed_job_raises_its_own_error(client: Client, worker: PlayedWorker, question: MakeJob) -> None:
    id = client.submit(question())
    worker.close(id, PromptTooLong("more tokens than a slot holds"))
    with pytest.raises(PromptTooLong, match="more tokens than a slot holds") as raised:
        client.answer(id)
    assert raised.value.attempts == 1


def test_the_same_id_twice_is_one_job(client: Client, worker: PlayedWorker, question: MakeJob, redis: Redis) -> None:
    assert client.submit(question(id="q1")) == client.submit(question("Another?", id="q1")) == "q1"
    assert b"What is it?" in worker.take("q1").payload
    assert client.counts()["interactive"] == {"waiting": 0, "queued": 0, "leased": 1, "delayed": 0}


def test_an_answered_job_is_not_published_again(
    client: Client, worker: PlayedWorker, question: MakeJob, redis: Redis
) -> None:
    client.submit(question(id="q1"))
    worker.close("q1", answer("q1", "once"))
    redis.delete("interactive")
    client.submit(question(id="q1"))
    assert redis.llen("interactive") == 0
    assert client.answer("q1").text == "once"


def test_a_job_that_is_open_gets_another_wake_up(client: Client, question: MakeJob, redis: Redis) -> None:
    client.submit(question(id="q1"))
    redis.delete("interactive")
    client.submit(question(id="q1"))
    assert redis.llen("interactive") == 1


def test_a_image_is_kept_once_for_all_its_jobs(client: Client, png: bytes, redis: Redis) -> None:
    jobs = [Job.about(png, f"Question {number}?", lane="bulk", timeout_s=100 + number) for number in range(10)]
    assert client.submit_many(jobs) == [job.id for job in jobs]
    [key] = redis.keys("vqa:image:*")
    assert redis.get(key) == png
    assert 3600 + 105 < redis.ttl(key) <= 3600 + 109
    assert redis.llen("bulk") == 10
    assert client.counts()["bulk"]["queued"] == 10


def test_more_jobs_than_a_round_trip_carries_keep_their_order(client: Client, question: MakeJob, redis: Redis) -> None:
    jobs = [question(f"{number}?", lane="bulk") for number in range(1201)]
    assert client.submit_many(iter(jobs)) == [job.id for job in jobs]
    counts = client.counts()["bulk"]
    assert (counts["queued"], counts["waiting"]) == (redis.llen("bulk"), 1137) == (64, 1137)
    in_order = [id.decode() for id in redis.zrange("vqa:queued:bulk", 0, -1)]
    assert sorted(in_order) == sorted(job.id for job in jobs[:64])


@pytest.mark.parametrize(
    ("limits", "reason"), [({"image_max_bytes": 10}, "VQA_IMAGE_MAX_BYTES"), ({"image_max_pixels": 10}, "PIXELS")]
)
def test_a_image_over_the_limits_is_refused_before_anything_is_sent(
    queue_settings: QueueSettings, png: bytes, redis: Redis, limits: dict[str, int], reason: str
) -> None:
    with Client(queue_settings, **limits) as client, pytest.raises(BadImage, match=reason):
        client.submit(Job.about(png, "What is it?", id="q1"))
    assert redis.keys() == []


def test_what_is_no_image_is_refused_by_the_name_of_its_job(client: Client) -> None:
    with pytest.raises(BadImage, match="job q7: not an image"):
        client.submit_many([Job.about(b"no image", "What is it?", id="q7")])


def test_a_image_in_the_store_is_named_by_reference(client: Client, png: bytes, redis: Redis) -> None:
    client.submit(Job.about(png, "What is it?", timeout_s=10))
    [key] = redis.keys("vqa:image:*")
    name = key.decode().removeprefix("vqa:image:")
    message = {"role": "user", "content": [ImagePart(image=name), {"type": "text", "text": "And now?"}]}
    client.submit(Job(messages=[message], timeout_s=1000))
    assert redis.ttl(key) > 3600 + 900


def test_a_reference_to_no_image_is_refused(client: Client, redis: Redis) -> None:
    message = {"role": "user", "content": [ImagePart(image="sha256:" + "0" * 64), {"type": "text", "text": "What?"}]}
    with pytest.raises(ImageMissing):
        client.submit(Job(messages=[message]))
    assert redis.keys() == []


def test_answers_come_as_they_finish_and_each_once(client: Client, worker: PlayedWorker, question: MakeJob) -> None:
    first, second, third = client.submit_many(question() for _ in range(3))
    outcomes = client.answers([first, second, third, first, "nobody's"], timeout_s=30)
    assert isinstance(dict([next(outcomes)])["nobody's"], UnknownJob)
    worker.close(third, answer(third, "third"))
    assert next(outcomes) == (third, answer(third, "third"))
    worker.close(first, EngineError("the engine failed"))
    id, error = next(outcomes)
    assert (id, type(error)) == (first, EngineError)
    worker.close(second, answer(second, "second"))
    assert [id for id, _ in outcomes] == [second]


def test_what_another_client_submitted_is_found_by_looking(
    client: Client, queue_settings: QueueSettings, worker: PlayedWorker, question: MakeJob
) -> None:
    with Client(queue_settings) as other:
        id = other.submit(question())
    closing = threading.Timer(0.2, worker.close, (id, answer(id, "found")))
    closing.start()
    assert client.answer(id, timeout_s=30).text == "found"
    closing.join()


def test_the_callers_own_time_ends_the_wait_and_not_the_job(
    client: Client, worker: PlayedWorker, question: MakeJob
) -> None:
    id = client.submit(question())
    begun = time.monotonic()
    with pytest.raises(AnswerTimeout):
        client.answer(id, timeout_s=0.2)
    assert time.monotonic() - begun < 5
    assert [type(outcome) for _, outcome in client.answers([id], timeout_s=0)] == [AnswerTimeout]
    worker.close(id, answer(id, "late"))
    assert client.answer(id, timeout_s=0).text == "late"


def test_nobody_waits_for_an_id_that_nobody_submitted(client: Client) -> None:
    with pytest.raises(UnknownJob):
        client.answer("nobody's")


def test_a_deadline_holds_though_no_worker_is_up(client: Client, png: bytes) -> None:
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="check that workers are up"):
        client.ask(png, "Is anybody there?", timeout_s=0.2)
    assert time.monotonic() - begun < 10
    assert client.counts()["interactive"] == {"waiting": 0, "queued": 0, "leased": 0, "delayed": 0}


def test_an_id_whose_entry_is_lost_does_not_hang_its_caller(client: Client, question: MakeJob, redis: Redis) -> None:
    id = client.submit(question(timeout_s=0.001))
    redis.delete(f"vqa:job:{id}")
    with pytest.raises(UnknownJob):
        client.answer(id)


def test_cancelling_ends_an_open_job_and_only_that(client: Client, worker: PlayedWorker, question: MakeJob) -> None:
    waiting, running, ended = client.submit_many(question() for _ in range(3))
    worker.take(running)
    worker.close(ended, answer(ended, "done"))
    assert [client.cancel(id) for id in (waiting, running, ended, "nobody's")] == [True, True, False, False]
    for id in (waiting, running):
        with pytest.raises(Cancelled):
            client.answer(id)
    assert client.answer(ended).text == "done"


def test_states_tell_where_jobs_stand(client: Client, worker: PlayedWorker, question: MakeJob) -> None:
    queued, leased, delayed, answered, failed = client.submit_many(question() for _ in range(5))
    worker.take(leased)
    worker.ledger.retry(delayed, worker.take(delayed).token, 30, "EngineError: once")
    worker.close(answered, answer(answered, "yes"))
    worker.close(failed, PromptTooLong("too long"))
    states = client.states([queued, leased, delayed, answered, failed, "nobody's"])
    assert [states[id].state for id in states] == ["queued", "leased", "delayed", "answered", "failed", "unknown"]
    assert states[leased].worker == "played@here"
    assert states[delayed].worker is None
    assert states[delayed].error == "EngineError: once"
    assert states[failed].error == "PromptTooLong: too long"
    assert 50 < (states[queued].remaining_s or 0) <= 60
    assert client.states([]) == {}


def test_workers_that_renew_are_shown(client: Client, worker: PlayedWorker) -> None:
    worker.ledger.renew("card0@here", [], 9, {"slots": 4})
    assert [(info.name, info.about) for info in client.workers()] == [("card0@here", {"slots": 4})]


def test_threads_that_share_a_client_get_their_own_answers(
    client: Client, answering: Callable[..., None], png: bytes
) -> None:
    answering(echo)
    answering(echo)
    got: dict[str, str] = {}

    def ask(name: int) -> None:
        for number in range(10):
            text = f"{name}.{number}"
            got[text] = client.ask(png, text).text

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(got) == 80
    assert all(asked == answered for asked, answered in got.items())


def test_a_thread_that_leaves_hands_the_reading_over(client: Client, worker: PlayedWorker, question: MakeJob) -> None:
    early, late = client.submit_many(question() for _ in range(2))
    got: list[str] = []
    threads = [threading.Thread(target=lambda id=id: got.append(client.answer(id, 30).text)) for id in (early, late)]
    for thread in threads:
        thread.start()
    for id, thread in zip((early, late), threads, strict=True):
        worker.close(id, answer(id, id))
        thread.join(timeout=10)
    assert got == [early, late]


def test_a_bounded_number_of_jobs_is_open_at_once(
    client: Client, answering: Callable[..., None], question: MakeJob
) -> None:
    most = 0

    def watching(job: Job, lease: Lease) -> Answer | VQAError:
        nonlocal most
        most = max(most, sum(sum(states.values()) for states in client.counts().values()))
        return echo(job, lease)

    answering(watching)
    outcomes = dict(client.ask_many((question(f"{number}", lane="bulk") for number in range(100)), in_flight=8))
    assert len(outcomes) == 100
    assert 0 < most <= 8


def test_answers_of_many_jobs_are_read_together_and_each_arrives(
    client: Client, echoing: None, question: MakeJob, redis: Redis
) -> None:
    before, began = redis.info("commandstats").get("cmdstat_blmpop", {"calls": 0})["calls"], time.monotonic()
    outcomes = dict(client.answers(client.submit_many(question(f"{n}", lane="bulk") for n in range(800)), 60))
    assert sorted(int(outcome.text) for outcome in outcomes.values() if isinstance(outcome, Answer)) == list(range(800))
    # the worker ends them one by one. While many are pending they gather before each read; the last few do not, and
    # neither do those of a read that finds many
    most = (time.monotonic() - began) / _GATHER_S + 2 * _GATHER_ABOVE
    assert 0 < redis.info("commandstats")["cmdstat_blmpop"]["calls"] - before < min(800, most)


def test_no_jobs_are_no_answers(client: Client) -> None:
    assert list(client.ask_many([])) == []
    assert client.submit_many([]) == []
    assert list(client.answers([])) == []


def test_a_redis_that_is_not_there_is_named_without_its_password() -> None:
    url = f"redis://user:secret@127.0.0.1:{free_port()}/0"
    with Client(redis_url=url) as client, pytest.raises(QueueUnavailable) as raised:
        client.counts()
    assert "secret" not in str(raised.value)
    assert "VQA_REDIS_URL" in str(raised.value)


def test_a_host_name_that_nobody_knows_is_named_as_such() -> None:
    with (
        Client(redis_url="redis://nohost.invalid:6379/0", redis_timeout_s=1) as client,
        pytest.raises(QueueUnavailable, match=r"nohost\.invalid:6379: the name of this host is unknown"),
    ):
        client.counts()


def test_a_password_that_redis_refuses_is_said_to_be_refused(redis_url: str) -> None:
    port = urlsplit(redis_url).port
    with (
        Client(redis_url=f"redis://nobody:secret@127.0.0.1:{port}/0") as client,
        pytest.raises(QueueUnavailable, match="refuses the user or the password"),
    ):
        client.counts()


def test_a_reply_list_that_nobody_reads_expires(
    queue_settings: QueueSettings, worker: PlayedWorker, question: MakeJob, redis: Redis
) -> None:
    with Client(queue_settings) as client:
        id = client.submit(question())
        worker.close(id, answer(id, "unread"))
    [key] = redis.keys("vqa:reply:*")
    assert 0 < redis.ttl(key) <= 3600


def test_settings_by_name_go_before_those_given_whole(queue_settings: QueueSettings) -> None:
    with Client(queue_settings, bulk_timeout_s=5) as client:
        assert client.settings.bulk_timeout_s == 5
        assert client.settings.redis_url == queue_settings.redis_url
    with pytest.raises(SettingsError, match="BULK_TIMEOUT_S"):
        Client(queue_settings, bulk_timeout_s=-1)


def test_jobs_of_a_batch_that_was_cancelled_end_as_cancelled_and_are_never_run(
    client: Client, question: MakeJob, redis: Redis
) -> None:
    batches = Batches(redis)
    batches.create("gone", "bulk")
    batches.cancel("gone")
    jobs = [question(lane="bulk", batch="gone") for _ in range(3)]
    outcomes = dict(client.ask_many([*jobs, *jobs]))
    assert {type(outcome) for outcome in outcomes.values()} == {Cancelled}
    assert set(outcomes) == {job.id for job in jobs}
    assert redis.llen("bulk") == 0
    assert not redis.exists("vqa:deadlines")
