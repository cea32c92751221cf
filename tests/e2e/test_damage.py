"""Whatever another program does to our keys and channels: other jobs are answered, and every command ends in words."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from redis import Redis
from typer.testing import CliRunner

from producer import Client
from producer.cli.main import app as command_line
from producer.demo.redis_server import EmbeddedRedis
from tests.worker_process import WorkerProcess
from vqa import Answer, InvalidJob, Job, JobGivenUp, VQAError
from vqa.celery import make_app, wake
from vqa.jobs.lane import LANES
from vqa.ledger.batches import Batches
from vqa.ledger.commands import dead_key, entry_key, outcome_key
from vqa.ledger.damage import FIXED_TYPES, Damage
from vqa.ledger.ledger import DEAD, DEADLINES, DROPPED, WORKERS, Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

WAIT_S = 60.0
SECRET = "the-secret-question"
PAYLOAD = json.dumps({"messages": [{"role": "user", "content": SECRET}]}).encode()
NESTED = b"[" * 100_000
#: values of a key, a field or a message that no program of ours writes
GARBAGE = [b"", b"garbage", b"\xff\xfe\x00", NESTED, b'{"a":' * 50_000, b"null", b"17", b"[]", b"{}", b'{"seen": "x"}']


@pytest.fixture(scope="module")
def settings() -> Iterator[QueueSettings]:
    with EmbeddedRedis() as server:
        yield QueueSettings(redis_url=server.url, lease_s=2)


@pytest.fixture(scope="module")
def worker(settings: QueueSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    log = tmp_path_factory.mktemp("worker") / "log"
    variables = {"VQA_LEASE_S": "2", "VQA_SLOTS": "64", "VQA_MESSAGE_MAX_BYTES": "100000"}
    worker = WorkerProcess(settings.redis_url, "worker", log, **variables)
    with connect(settings) as redis:
        worker.wait_ready(Ledger(redis))
        yield worker
    assert worker.stop() == 0


@pytest.fixture
def queue_settings(settings: QueueSettings) -> QueueSettings:
    """This module's server, which keeps its worker between tests."""
    return settings


@pytest.fixture
def redis_url(settings: QueueSettings) -> str:
    return settings.redis_url


@pytest.fixture
def redis(settings: QueueSettings) -> Iterator[Redis]:
    with connect(settings) as connection:
        yield connection


@pytest.fixture
def vqa(settings: QueueSettings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command in this process; it must end by itself or with a named error."""
    monkeypatch.setenv("VQA_REDIS_URL", settings.redis_url)

    def run(*arguments: str) -> str:
        ended = CliRunner().invoke(command_line, list(arguments))
        assert ended.exception is None or isinstance(ended.exception, SystemExit | VQAError), ended.exc_info
        return f"{ended.output}{ended.exception or ''}"

    return run


def ask(client: Client, worker: WorkerProcess, **more: Any) -> None:
    """A job on each lane is answered."""
    for lane in LANES:
        answer = client.answer(client.submit(Job.from_json(PAYLOAD).model_copy(update={"lane": lane} | more)), WAIT_S)
        assert answer.attempt == 1
    assert worker.process.poll() is None


def until(done: Callable[[], object], worker: WorkerProcess) -> None:
    end = time.monotonic() + WAIT_S
    while not done():
        assert worker.process.poll() is None, worker.log.read_text()
        assert time.monotonic() < end, worker.log.read_text()
        time.sleep(0.05)


def without(name: str) -> Callable[[dict[str, Any], bytes], bytes]:
    return lambda header, rest: _entry({key: value for key, value in header.items() if key != name}, rest)


def having(name: str, value: object) -> Callable[[dict[str, Any], bytes], bytes]:
    return lambda header, rest: _entry(header | {name: value}, rest)


def _entry(header: object, rest: bytes) -> bytes:
    return json.dumps(header).encode() + b"\n" + rest


REQUIRED = ("state", "lane", "accepted", "deadline", "attempt", "lost", "reply")
#: entries made of an entry's header and payload
ENTRIES: Mapping[str, Callable[[dict[str, Any], bytes], bytes]] = {
    **{f"garbage-{number}": lambda _, rest, raw=raw: raw + b"\n" + rest for number, raw in enumerate(GARBAGE)},
    "no-newline": lambda header, _: json.dumps(header).encode(),
    "empty": lambda *_: b"",
    "cut": lambda header, rest: _entry(header, rest)[:20],
    "zeros": lambda *_: b"\0" * 2_000_000,
    **{f"without-{name}": without(name) for name in REQUIRED},
    **{f"null-{name}": having(name, None) for name in (*REQUIRED, "batch", "tenant", "history", "token")},
    **{f"list-{name}": having(name, [1]) for name in (*REQUIRED, "batch", "worker", "error", "token")},
    "state": having("state", "asleep"),
    "lane": having("lane", "fast"),
    "tenant": lambda header, rest: having("state", "waiting")(header | {"tenant": None}, rest),
    "reply": having("reply", DEADLINES),
    "nan": having("deadline", float("nan")),
    "huge": having("lost", 1e300),
    "history": having("history", [5]),
}


@pytest.mark.parametrize("running", [False, True])
def test_a_damaged_entry_ends_as_a_dead_letter_and_its_neighbours_are_answered(
    running: bool, client: Client, redis: Redis, worker: WorkerProcess, settings: QueueSettings, vqa: Callable[..., str]
) -> None:
    ledger, kept = Ledger(redis), {}
    # the damaged ones would never be done before they are damaged
    slow, metadata = {"echo_delay_s": "4"}, {"echo_delay_s": "500"}
    well = [client.submit(Job.from_json(PAYLOAD).model_copy(update={"metadata": slow})) for _ in range(3)]
    ids = {kind: f"{kind}-{running}" for kind in (*ENTRIES, "type")}
    for id in ids.values():
        payload = json.dumps(json.loads(PAYLOAD) | {"id": id, "metadata": metadata}).encode()
        assert ledger.accept(id, "bulk", payload, 600) == "accepted"
    app = make_app(settings)
    if running:
        wake(app, [(id, "bulk") for id in ids.values()])
        until(lambda: ledger.counts()["bulk"]["leased"] == len(ids), worker)
    for kind, damage in ENTRIES.items():
        header, _, rest = redis.get(entry_key(ids[kind])).partition(b"\n")
        kept[ids[kind]] = damage(json.loads(header), rest)
        redis.set(entry_key(ids[kind]), kept[ids[kind]])
    redis.delete(entry_key(ids["type"]))
    redis.rpush(entry_key(ids["type"]), "x")
    for words in (["status"], ["status", *ids.values()], ["status", "--json", *ids.values()], ["dlq", "list"]):
        vqa(*words)
    # a renewal sets those aside that run
    assert running or "open jobs that cannot be read" in vqa("doctor")
    vqa("cancel", ids["cut"])
    if not running:
        wake(app, [(id, "bulk") for id in ids.values()])
    app.close()

    for id, outcome in client.answers(ids.values(), WAIT_S):
        assert isinstance(outcome, JobGivenUp), (id, outcome)
        assert str(outcome).startswith("damaged: ")
        assert vqa("dlq", "show", id).startswith("id ")
        assert "is not a job" in vqa("dlq", "retry", id)
        if id in kept:
            assert redis.get(dead_key(id)).partition(b"\n")[2] == kept[id]
    for id in well:
        assert client.answer(id, WAIT_S).attempt == 1
    ask(client, worker)
    until(lambda: worker.log.read_text().count("set aside among the dead letters: vqa:job:") >= len(ids), worker)
    assert "cannot be read" not in vqa("doctor")
    assert SECRET not in worker.log.read_text()
    assert "Traceback" not in worker.log.read_text()


def put(redis: Redis, key: str, kind: str) -> None:
    """Replace a key by one of another type."""
    redis.delete(key)
    if kind == "string":
        redis.set(key, "another program's")
    else:
        redis.hset(key, "another", "program's")


#: a job's places: it is in the first and in one of the others, and is found again by the one that is left
PLACES = (DEADLINES, *(f"vqa:{state}:{lane}" for lane in LANES for state in ("queued", "leased", "delayed")))


@pytest.mark.parametrize(("kind", "left"), [("string", PLACES[:1]), ("hash", PLACES[1:])])
def test_keys_of_a_wrong_type_are_set_aside_and_the_jobs_are_answered(
    kind: str, left: tuple[str, ...], client: Client, redis: Redis, worker: WorkerProcess, vqa: Callable[..., str]
) -> None:
    slow = Job.from_json(PAYLOAD).model_copy(update={"metadata": {"echo_delay_s": "4"}, "lane": "bulk"})
    ids = [client.submit(slow.model_copy(update={"id": f"{kind}-{number}"})) for number in range(5)]
    wrong = [key for key, right in FIXED_TYPES.items() if right != kind and key not in left]
    for key in wrong:
        put(redis, key, kind)
    for words in (["status"], ["doctor"], ["dlq", "list"], ["cancel", "nobody"]):
        vqa(*words)
    until(lambda: not Damage(redis).wrong_types(), worker)
    for id in ids:
        assert isinstance(client.answer(id, WAIT_S), Answer)
    ask(client, worker)
    for key in wrong:
        # a worker overwrites the strings, which are all of short life
        assert FIXED_TYPES[key] == "string" or redis.exists(f"vqa:damaged:{key}")
    redis.delete(*(f"vqa:damaged:{key}" for key in wrong))
    assert f"{wrong[1]} is not a" in vqa("dlq", "list")
    assert "Traceback" not in worker.log.read_text()


def test_doctor_names_what_is_of_a_wrong_type_and_repairs_it(
    redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # not this module's server, whose worker may repair it first
    with connect(QueueSettings(redis_url=redis_server)) as redis:
        redis.flushall()
        redis.hset(WORKERS, mapping=dict(enumerate(GARBAGE)))
        monkeypatch.setenv("VQA_REDIS_URL", redis_server)
        said = CliRunner().invoke(command_line, ["doctor"]).output
        assert (
            f"lines of workers that cannot be read, because another program has written to them: {len(GARBAGE)}" in said
        )
        put(redis, "vqa:queued:bulk", "string")
        put(redis, "vqa:janitor", "hash")
        said = CliRunner().invoke(command_line, ["doctor"]).output
        assert "vqa:queued:bulk is not a zset: another program has overwritten it" in said
        assert "needs Redis" not in said
        said = CliRunner().invoke(command_line, ["doctor", "--repair"]).output
        assert "is not a zset" not in said
        assert "cannot be read" not in said
        assert redis.exists("vqa:damaged:vqa:queued:bulk")


def test_damaged_lines_batches_outcomes_and_dead_letters_are_passed_over(
    client: Client, redis: Redis, worker: WorkerProcess, vqa: Callable[..., str]
) -> None:
    batches = Batches(redis)
    lines = [*GARBAGE, b'{"seen": 9e99}\n{}', b'{"seen": 1}\n[]', b'{"seen": 1}', b'{"seen": null}\n{}', b"\n\n"]
    for number, line in enumerate(lines):
        redis.hset(WORKERS, b"\xff%d" % number if number % 2 else f"w{number}", line)
    states = {"status": b"x", "lane": b"y", "created": b"no", "keep_ms": NESTED, "completed": b"\xff", "tenant": b""}
    jobs = []
    for field, value in states.items():
        batches.create(f"batch-{field}", "bulk")
        jobs.append(
            client.submit(Job.from_json(PAYLOAD).model_copy(update={"batch": f"batch-{field}", "lane": "bulk"}))
        )
        redis.hset(f"vqa:batch:batch-{field}", field, value)
        redis.sadd(f"vqa:batch:batch-{field}:open", b"\xff")
    put(redis, "vqa:batch:batch-lane", "string")
    redis.zadd("vqa:batches", {b"\xff": 5, b"gone": 6})
    for number, raw in enumerate([*GARBAGE, b'{"status": "SUCCESS"}', b'{"status": "SUCCESS", "result": 5}']):
        redis.set(outcome_key(f"outcome-{number}"), raw)
        redis.set(dead_key(f"dead-{number}"), raw + b"\n" + PAYLOAD)
        redis.zadd(DEAD, {f"dead-{number}": time.time() * 1000, b"\xfe%d" % number: time.time() * 1000})
    classes = {"exc_type": "system", "exc_module": "os", "exc_message": ["true"]}
    redis.set(outcome_key("outcome-class"), json.dumps({"status": "FAILURE", "result": classes}))
    ids = [key.decode().removeprefix(outcome_key("")) for key in redis.scan_iter(outcome_key("outcome-*"))]

    assert "batches that cannot be read" in vqa("doctor")
    for words in (["status"], ["status", "--json"], ["status", *ids], ["dlq", "list"], ["dlq", "list", "--json"]):
        vqa(*words)
    vqa("cancel", *ids)
    vqa("dlq", "show", "dead-1")
    vqa("dlq", "retry", "dead-1")
    for id in ids:
        with pytest.raises(VQAError, match="outcome is none that this version of vqa can read"):
            client.answer(id, WAIT_S)
    for id, outcome in client.answers(jobs, WAIT_S):
        assert isinstance(outcome, Answer), (id, outcome)
    ask(client, worker)
    until(lambda: not Damage(redis).worker_flaws(), worker)
    assert "Traceback" not in worker.log.read_text()
    vqa("dlq", "purge", "--yes", "--reason", "damaged")


def test_what_is_on_a_channel_or_among_bindings_ends_nobody(
    client: Client, redis: Redis, worker: WorkerProcess
) -> None:
    decimal = json.dumps({"__type__": "decimal", "__value__": "x"}).encode()
    broadcasts = [
        *GARBAGE,
        decimal,
        b'{"properties": 5}',
        b'{"body": 5, "properties": {"delivery_tag": 1}}',
        b"x" * 2**21,
    ]
    running = client.submit(Job.from_json(PAYLOAD).model_copy(update={"metadata": {"echo_delay_s": "4"}}))
    put(redis, client._queue.reply_list, "hash")
    for raw in broadcasts:
        for channel in ("/0.celery.pidbox", "/0.celeryev/worker.heartbeat", DROPPED, outcome_key(running)):
            redis.publish(channel, raw)
    for exchange in ("celery.pidbox", "reply.celery.pidbox", "celery", "celeryev"):
        redis.sadd(f"_kombu.binding.{exchange}", *GARBAGE)
    redis.set("vqa:capacity", "many")
    redis.hset("vqa:flight:bulk", mapping={"": "x", b"\xff": NESTED})

    ask(client, worker)
    assert client.answer(running, WAIT_S).attempt == 1
    assert "dropped a broadcast message: it is not JSON" in worker.log.read_text()
    assert SECRET not in worker.log.read_text()


def test_images_and_cached_answers_that_are_damaged_fail_or_cost_one_job_alone(
    client: Client, redis: Redis, worker: WorkerProcess
) -> None:
    image = next((Path(__file__).parents[2] / "examples" / "images").glob("*.png"))
    ask(client, worker, reuse=True)
    for key in redis.scan_iter("vqa:reuse:*"):
        redis.set(key, NESTED)
    ask(client, worker, reuse=True)
    slow = Job.about(image, "What is this?", id="damaged-image", metadata={"echo_delay_s": "0"})
    client.submit(slow)
    client.answer("damaged-image", WAIT_S)
    for key in redis.scan_iter("vqa:image:*"):
        redis.set(key, b"another program's")
    with pytest.raises(VQAError, match="submit the job again"):
        client.answer(client.submit(Job.about(image, "What is this?")), WAIT_S)
    assert client.answer(client.submit(Job.about(image, "What is this?")), WAIT_S)


def test_senders_that_are_no_client_of_ours_hear_what_is_wrong(
    other_app: Celery, worker: WorkerProcess, client: Client
) -> None:
    job = json.loads(PAYLOAD)

    def asked(*args: object) -> Any:
        return other_app.signature("vqa.answer", args=args, queue="interactive", immutable=True)

    together = group(asked(job), asked(job), app=other_app).apply_async()
    waited = {
        "args": asked().apply_async(),
        "task_id": asked(job).apply_async(task_id="scan/0001.png"),
        "chain": chain(asked(job), asked(job), app=other_app).apply_async(),
        "chord": chord([asked(job), asked(job)], body=asked(job), app=other_app).apply_async(),
        "VQA_MESSAGE_MAX_BYTES": asked(job | {"padding": "x" * 100_000}).apply_async(),
    }
    for field, result in waited.items():
        with pytest.raises(InvalidJob, match=field):
            result.get(timeout=WAIT_S)
    assert [each["attempt"] for each in together.get(timeout=WAIT_S)] == [1, 1]
    ask(client, worker)
