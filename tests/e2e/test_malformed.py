"""Malformed messages in Celery's lists: each becomes a dead letter with its reason, and the same worker goes on."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from producer import Client
from tests.worker_process import StartWorker, WorkerProcess
from vqa import Answer, DeadlineExceeded, InvalidJob, Job, UnsupportedVersion, VQAError
from vqa.celery import DEFAULT_QUEUE, TASK
from vqa.jobs.lane import LANES
from vqa.ledger.commands import dead_key
from vqa.ledger.ledger import DEAD, DEAD_LETTER_BYTES
from vqa.ledger.records import Header

SECRET = "the-secret-question"
WAIT_S = 60.0
LISTS = (*LANES, DEFAULT_QUEUE)
WORDS = {"messages": [{"role": "user", "content": SECRET}]}
NOTHING = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def packed(id: object, body: object = None, content_type: str | None = "application/json", **headers: Any) -> bytes:
    """A message as other languages write one, by the description of Celery's protocol."""
    text = json.dumps([[WORDS], {}, NOTHING] if body is None else body)
    message = {
        "body": base64.b64encode(text.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": content_type,
        "headers": {"lang": "go", "task": TASK, "id": id} | headers,
        "properties": {
            "correlation_id": str(id),
            "delivery_tag": "1",
            "delivery_info": {"exchange": "", "routing_key": "celery"},
            "body_encoding": "base64",
        },
    }
    return json.dumps(message).encode()


def changed(id: str, **parts: Any) -> bytes:
    message = json.loads(packed(id)) | parts
    return json.dumps({name: value for name, value in message.items() if value != "absent"}).encode()


def nested(levels: int) -> Any:
    value: Any = WORDS
    for _ in range(levels):
        value = [value]
    return value


@dataclass(frozen=True)
class Bad:
    """Made for a list, so that no two are equal; whether it has an id that can be used, and the reason to expect."""

    make: Callable[[str], bytes]
    reason: str
    has_id: bool = True


BAD = {
    "pickle": Bad(lambda at: b"\x80\x04\x95\x1a\x00" + at.encode(), "it is not UTF-8", False),
    "protobuf": Bad(lambda at: b"\n\xf5\x01\x12\x07" + at.encode(), "it is not UTF-8", False),
    "zeros": Bad(lambda at: b"\0" * 1000 + at.encode(), "it is not JSON", False),
    "text": Bad(lambda at: f"hello {at} {SECRET}".encode(), "it is not JSON", False),
    "cut": Bad(lambda at: packed(at)[:-20], "it is not JSON", False),
    "nested": Bad(lambda at: b"[" * 50_000 + at.encode(), "it is not JSON", False),
    "huge": Bad(lambda at: b'"' + at.encode() + b"x" * 20_000_000, "it is not JSON", False),
    "list": Bad(lambda at: json.dumps([at]).encode(), "it is not a JSON object", False),
    "number": Bad(lambda at: b"17" + str(len(at)).encode(), "it is not a JSON object", False),
    "empty": Bad(lambda at: json.dumps({"at": at}).encode(), "its content type is not application/json", False),
    "no-headers": Bad(lambda at: changed(at, headers="absent", at=at), "it names no task", False),
    "headers-list": Bad(lambda at: changed(at, headers=[at]), "headers is not an object", False),
    "id-absent": Bad(
        lambda at: changed(at, headers={"task": TASK}, at=at),
        "task_id: it has 1 to 128 characters: letters, digits and ._:@+-",
        False,
    ),
    "id-list": Bad(lambda at: packed([at]), "task_id: it has 1 to 128 characters: letters, digits and ._:@+-", False),
    "id-number": Bad(
        lambda at: packed(17, at=at), "task_id: it has 1 to 128 characters: letters, digits and ._:@+-", False
    ),
    "id-dict": Bad(
        lambda at: packed({"id": at}), "task_id: it has 1 to 128 characters: letters, digits and ._:@+-", False
    ),
    "id-long": Bad(
        lambda at: packed(at * 1000), "task_id: it has 1 to 128 characters: letters, digits and ._:@+-", False
    ),
    "id-surrogate": Bad(
        lambda at: packed("\ud800" + at), "task_id: it has 1 to 128 characters: letters, digits and ._:@+-", False
    ),
    "id-slashes": Bad(
        lambda at: packed(f"../{at}"), "task_id: it has 1 to 128 characters: letters, digits and ._:@+-", False
    ),
    "no-content-type": Bad(lambda at: packed(at, content_type=None), "its content type is not application/json"),
    "pickled-body": Bad(
        lambda at: packed(at, content_type="application/x-python-serialize"), "its content type is not application/json"
    ),
    "properties": Bad(lambda at: changed(at, properties=7), "properties is not an object"),
    "body-absent": Bad(lambda at: changed(at, body="absent"), "its body is not text"),
    "body-garbage": Bad(lambda at: changed(at, body="????"), "its body is not JSON"),
    "body-type": Bad(lambda at: packed(at, [[{"__type__": "x", "__value__": SECRET}], {}, {}]), "its body is not JSON"),
    "body-two": Bad(lambda at: packed(at, [[WORDS], {}]), "its body is not [args, kwargs, embed]"),
    "body-deep": Bad(lambda at: packed(at, [[nested(800)], {}, {}]), "its body is nested too deeply"),
    "body-args": Bad(lambda at: packed(at, [WORDS, {}, {}]), "its body is not [list, object, object]"),
    "task-unknown": Bad(lambda at: packed(at, task="vqa.misspelt"), "the task vqa.misspelt is unknown"),
    "task-words": Bad(lambda at: packed(at, task=f"{SECRET}?"), "the task is unknown"),
    "task-list": Bad(lambda at: packed(at, task=[TASK]), "the task is unknown"),
    "compressed": Bad(lambda at: packed(at, compression="application/x-gzip"), "it is compressed"),
    "eta": Bad(lambda at: packed(at, eta="soon"), "its eta is not a time"),
    "eta-number": Bad(lambda at: packed(at, eta=5), "its eta is not a time"),
    "expires": Bad(lambda at: packed(at, expires=[]), "its expires is not a time"),
}

#: strange, and answered all the same
GOOD: dict[str, Callable[[str], bytes]] = {
    "timelimit": lambda id: packed(id, timelimit="soon"),
    "callbacks": lambda id: packed(id, [[WORDS], {}, {"callbacks": 5, "chain": "x", "id": "another", "task": None}]),
    "stamps": lambda id: packed(id, stamped_headers=5, stamps=[], group={}, retries="no", shadow=[SECRET]),
    "plain-text": lambda id: changed(id, body=json.dumps([[WORDS], {}, {}]), properties={}),
    "protocol-1": lambda id: changed(
        id, headers={}, body=base64.b64encode(json.dumps({"task": TASK, "id": id, "args": [WORDS]}).encode()).decode()
    ),
    "keywords": lambda id: packed(id, [[], WORDS | {"metadata": {"self": "x"}}, {}]),
}

#: on the channel on which Flower speaks to workers
BROADCASTS = [b"[]", b"{}", b"\xff", b'{"properties": 5}', b'{"properties": {"delivery_tag": 1}, "body": "?"}']


def dead_letters(redis: Redis) -> Iterator[tuple[Header, str, bytes]]:
    for id in redis.zrange(DEAD, 0, -1):
        header, _, payload = redis.get(dead_key(id.decode())).partition(b"\n")
        yield Header.parse(header), id.decode(), payload


def wait_until(done: Callable[[], bool], worker: WorkerProcess) -> None:
    until = time.monotonic() + WAIT_S
    while not done():
        assert worker.process.poll() is None, worker.log.read_text()
        assert time.monotonic() < until, worker.log.read_text()
        time.sleep(0.05)


def test_every_kind_on_every_list_becomes_a_dead_letter_and_the_same_worker_answers(
    client: Client, redis: Redis, start_worker: StartWorker, other_app: Celery
) -> None:
    worker = start_worker()
    sent = {}
    for list_ in LISTS:
        for kind, bad in BAD.items():
            sent[f"{kind}.{list_}"] = raw = bad.make(f"{kind}.{list_}")
            redis.lpush(list_, raw)
        for kind, make in GOOD.items():
            redis.lpush(list_, make(f"{kind}.{list_}"))
    for broadcast in BROADCASTS:
        redis.publish("/0.celery.pidbox", broadcast)

    answers = [client.answer(client.submit(Job(**WORDS, lane=lane)), timeout_s=WAIT_S) for lane in LANES]
    answers += [Answer.model_validate(other_app.AsyncResult(f"{kind}.celery").get(timeout=WAIT_S)) for kind in GOOD]
    assert {answer.attempt for answer in answers} == {1}
    wait_until(lambda: redis.zcard(DEAD) >= len(sent), worker)
    for kind in GOOD:
        for list_ in LANES:
            assert client.answer(f"{kind}.{list_}", timeout_s=WAIT_S).attempt == 1

    found = {payload: (header, id) for header, id, payload in dead_letters(redis)}
    assert len(found) == len(sent)
    for place, raw in sent.items():
        kind, _, list_ = place.rpartition(".")
        header, id = found[raw[:DEAD_LETTER_BYTES]]
        assert header.reason == f"malformed: {BAD[kind].reason}", place
        assert header.lane == ("interactive" if list_ == "interactive" else "bulk")
        assert id == place if BAD[kind].has_id else id.startswith("malformed-")
    log = worker.log.read_text()
    assert SECRET not in log
    assert "Traceback" not in log
    assert worker.process.poll() is None
    assert worker.stop() == 0


def test_whoever_waits_for_a_malformed_message_hears_what_is_wrong(
    client: Client, other_app: Celery, redis: Redis, start_worker: StartWorker
) -> None:
    worker = start_worker()
    misspelt = other_app.send_task("vqa.misspelt", [WORDS], queue="interactive")
    newer = other_app.send_task(TASK, [{"version": 99, "at": datetime.now(UTC), **WORDS}], queue="bulk")
    expired = other_app.send_task(TASK, [WORDS], queue="bulk", expires=datetime.now(UTC) - timedelta(seconds=5))
    linked = other_app.send_task(TASK, [WORDS], link=other_app.signature("x.y"), time_limit=5, countdown=1)
    for result, error in ((misspelt, InvalidJob), (newer, UnsupportedVersion), (expired, DeadlineExceeded)):
        with pytest.raises(VQAError) as caught:
            result.get(timeout=WAIT_S)
        assert type(caught.value) is error
    assert linked.get(timeout=WAIT_S)["attempt"] == 1
    assert {id: header.reason for header, id, _ in dead_letters(redis)} == {
        misspelt.id: "malformed: the task vqa.misspelt is unknown",
        newer.id: "unsupported_version",
    }
    assert SECRET not in worker.log.read_text()


def test_a_malformed_message_does_not_touch_a_job_of_the_same_id(
    client: Client, redis: Redis, start_worker: StartWorker
) -> None:
    client.submit(Job(**WORDS, id="taken", lane="bulk", metadata={"echo_delay_s": "1"}))
    redis.rpush("interactive", packed("taken", task="vqa.misspelt"))
    start_worker()
    assert client.answer("taken", timeout_s=WAIT_S).attempt == 1
    [(header, id, _)] = dead_letters(redis)
    assert id.startswith("malformed-")
    assert header.reason == "malformed: the task vqa.misspelt is unknown"
