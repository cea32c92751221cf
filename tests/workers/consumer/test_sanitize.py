"""Whatever the bytes: Celery's own strategy takes a sanitized message, and a malformed one gets a reason."""

import base64
import copy
import json
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import kombu
import pytest
from celery.worker.strategy import default
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu.transport.redis import dumps, loads

from vqa.celery import TASK, make_app, publish
from vqa.errors import InvalidJob
from vqa.jobs.job import Job
from vqa.settings import QueueSettings
from workers.consumer.sanitize import MalformedMessage, sanitize, usable_id
from workers.tasks import AnswerTask

SECRET = "the-secret-question"
JOB = {"messages": [{"role": "user", "content": SECRET}]}

Take = Callable[[bytes], Any]


def foreign(**parts: Any) -> dict[str, Any]:
    """A message as another Celery app sends it, with its body unpacked."""
    return {
        "body": [[copy.deepcopy(JOB)], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}],
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": TASK,
            "id": "a-job",
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": "a-job",
            "parent_id": None,
            "argsrepr": f"[{SECRET}]",
            "kwargsrepr": "{}",
            "origin": "gen1@host",
            "ignore_result": False,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        "properties": {
            "correlation_id": "a-job",
            "reply_to": "be73ee76-b4b9-3ce2-a3a8-4b3b6e0e9d8c",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "celery", "routing_key": "celery"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "26e7a4a4-6e0a-4f3e-a2ad-6f3c0a3e0a5e",
        },
    } | parts


def packed(message: dict[str, Any]) -> bytes:
    """As it stands in Redis."""
    if "body" in message and not isinstance(message["body"], str):
        message = message | {"body": base64.b64encode(json.dumps(message["body"]).encode()).decode()}
    return json.dumps(message).encode()


def with_header(name: str, value: Any) -> bytes:
    return packed(foreign(headers=foreign()["headers"] | {name: value}))


def read(safe: bytes | MalformedMessage) -> dict[str, Any]:
    assert isinstance(safe, bytes), safe
    message: dict[str, Any] = json.loads(safe)
    return message


def job_in(safe: bytes | MalformedMessage) -> Any:
    args, kwargs, embed = json.loads(read(safe)["body"])
    assert (kwargs, embed) == ({}, {})
    return args[0]


@pytest.fixture(scope="module")
def take() -> Iterator[Take]:
    """What kombu and Celery do with a message that was popped, as far as the thread that runs the task."""
    app = make_app(QueueSettings())
    app.register_task(AnswerTask())
    received: list[Any] = []
    consumer = SimpleNamespace(
        hostname="w@host",
        connection_errors=(),
        event_dispatcher=None,
        timer=SimpleNamespace(call_at=lambda when, call, args, priority: received.append(args[0])),
        apply_eta_task=None,
        disable_rate_limits=False,
        task_buckets={TASK: None},
        on_task_request=received.append,
        _limit_task=None,
        _limit_post_eta=None,
        pool=SimpleNamespace(apply_async=None),
        qos=SimpleNamespace(increment_eventually=lambda: None),
        controller=SimpleNamespace(state=SimpleNamespace(revoked=set())),
    )
    strategy = default(app.tasks[TASK], app, consumer)
    with kombu.Connection("memory://") as connection:
        channel = connection.channel()

        def take(raw: bytes) -> Any:
            message = channel.Message(loads(raw.decode()), channel=channel)
            message.accept = {"application/json"}
            assert not message.errors
            # kombu's record of who has it
            info = message.delivery_info
            dumps([message._raw, info["exchange"], info["routing_key"]]).encode()
            assert message.headers["task"] in app.tasks
            strategy(message, None, None, None, [])
            request = received.pop()
            assert not received
            args, kwargs, embed = request._payload
            assert len(args) <= 1
            assert (kwargs, any(embed.values())) == ({}, False)
            return request

        yield take


def published(id: str) -> bytes:
    """A wake-up of our own."""
    with kombu.Connection("memory://") as connection:
        channel = connection.channel()
        sent: list[Any] = []
        channel._put = lambda queue, message, **_: sent.append(message)
        publish(kombu.Producer(channel), id, "interactive")
    return dumps(sent[0]).encode()


texts = st.text(alphabet=st.characters(exclude_categories=())) | st.just(SECRET) | st.sampled_from(["utf-8", TASK, ""])
scalars = st.none() | st.booleans() | st.integers() | st.integers(2**63, 2**200) | st.floats() | texts
special = st.fixed_dictionaries(
    {"__type__": st.sampled_from(["bytes", "datetime", "decimal", "?"]), "__value__": scalars}
)
values = st.recursive(
    scalars | special,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths(value[key], (*path, key))


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A good message in which up to three places hold something else, or nothing."""
    message = foreign()
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from([path for path in paths(message) if path]))
        place: Any = message
        for key in path:
            place = place[key]
        if draw(st.booleans()):
            place[last] = draw(values)
        elif isinstance(place, dict):
            del place[last]
        if not isinstance(message.get("body"), list):
            break
    return packed(message)


def check(raw: bytes, take: Take) -> None:
    found = sanitize(raw, "bulk")
    if isinstance(found, MalformedMessage):
        assert found.reason
        assert SECRET not in found.reason
        assert found.id is None or found.id == usable_id(found.id)
    else:
        assert take(found).delivery_info["routing_key"] == "bulk"
        # it may be put back and popped again
        again = sanitize(found, "bulk")
        assert isinstance(again, bytes)
        assert again.count(b"delivery_tag") == 1


@given(raw=st.binary() | texts.map(lambda text: text.encode(errors="surrogatepass")))
def test_no_bytes_make_it_raise(raw: bytes, take: Take) -> None:
    check(raw, take)


@given(value=values)
def test_no_json_makes_it_raise(value: Any, take: Take) -> None:
    check(json.dumps(value).encode(), take)


@settings(max_examples=500, deadline=None)
@given(raw=mutations())
def test_what_it_lets_through_is_taken_by_celery(raw: bytes, take: Take) -> None:
    check(raw, take)


@given(body=st.binary() | values.map(lambda value: json.dumps(value).encode()))
def test_no_body_makes_it_raise(body: bytes, take: Take) -> None:
    check(packed(foreign(body=base64.b64encode(body).decode())), take)


def test_our_own_wake_up_passes(take: Take) -> None:
    raw = published("a-job")
    safe = sanitize(raw, "interactive")
    assert isinstance(safe, bytes)
    request = take(safe)
    assert (request.id, request.args, request.delivery_info["routing_key"]) == ("a-job", [], "interactive")


def test_our_own_wake_up_costs_little() -> None:
    raw = published("a-job")
    took = []
    for _ in range(200):
        started = time.perf_counter()
        sanitize(raw, "interactive")
        took.append(time.perf_counter() - started)
    # 28 microseconds where nothing else runs
    assert sorted(took)[100] < 0.0005


def test_a_job_of_another_app_passes_with_what_is_honoured_and_nothing_else(take: Take) -> None:
    embed = {"callbacks": [{"task": "x"}], "errbacks": 5, "chain": "y", "chord": {}, "id": "another"}
    headers = foreign()["headers"] | {"group": "g", "stamps": {"a": 1}, "timelimit": "soon", "shadow": SECRET}
    safe = sanitize(packed(foreign(body=[[JOB, "more"], {"self": 1}, embed], headers=headers)), "bulk")
    assert isinstance(safe, bytes)
    request = take(safe)
    assert (request.id, request.name, request.time_limits) == ("a-job", TASK, (None, None))
    assert request.args == [JOB]
    assert request._context.id == "a-job"
    assert (request.group, request.chord, request.errbacks, request.stamped_headers) == (None, None, None, [])


def test_a_delivery_tag_is_drawn_so_that_copies_do_not_share_one() -> None:
    tags = {read(sanitize(packed(foreign()), "bulk"))["properties"]["delivery_tag"] for _ in range(3)}
    assert len(tags) == 3
    assert all(uuid.UUID(tag) for tag in tags)


@pytest.mark.parametrize(
    ("args", "kwargs"), [([JOB], {}), ([], JOB), ([], {"job": JOB}), ([JOB], {"job": 1}), ([JOB, 2, 3], {})]
)
def test_the_job_is_found_where_it_is(args: list[Any], kwargs: dict[str, Any]) -> None:
    assert job_in(sanitize(packed(foreign(body=[args, kwargs, None])), "bulk")) == JOB


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", None])
def test_a_body_may_stand_there_in_plain_text(encoding: str | None) -> None:
    message = foreign(body=json.dumps([[JOB], {}, {}]), properties={"body_encoding": encoding})
    assert job_in(sanitize(packed(message), "bulk")) == JOB


def test_a_message_of_task_protocol_1_becomes_one_of_protocol_2(take: Take) -> None:
    body = {"task": TASK, "id": "old", "args": [JOB], "kwargs": {}, "retries": 0, "eta": None, "callbacks": None}
    safe = sanitize(packed(foreign(body=body, headers={})), "celery")
    assert isinstance(safe, bytes)
    assert take(safe).id == "old"
    assert job_in(safe) == JOB


def test_an_eta_is_not_followed(take: Take) -> None:
    safe = sanitize(with_header("eta", "2100-01-01T00:00:00+00:00"), "bulk")
    assert isinstance(safe, bytes)
    assert take(safe).eta is None


@pytest.mark.parametrize(("named_s", "expected_s"), [(None, 60), (10, 10), (1000, 60)])
def test_what_expires_has_so_long_as_its_timeout(take: Take, named_s: float | None, expected_s: float) -> None:
    message = foreign(body=[[JOB | ({"timeout_s": named_s} if named_s else {})], {}, {}])
    message["headers"]["expires"] = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
    safe = sanitize(packed(message), "bulk")
    assert isinstance(safe, bytes)
    assert take(safe).expires is None
    assert job_in(safe)["timeout_s"] == pytest.approx(expected_s, abs=5)


def test_what_has_expired_is_a_job_whose_time_is_over() -> None:
    safe = sanitize(with_header("expires", "2020-01-01T00:00:00"), "bulk")
    assert Job.from_json(job_in(safe)).timeout_s == 0.0001


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in foreign().items() if key != name}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x80\x04\x95\x10\x00", "it is not UTF-8"),
        (b"\x08\x96\x01\x12\x07testing", "it is not UTF-8"),
        (b"hello", "it is not JSON"),
        (b"", "it is not JSON"),
        ("\ufeff{}".encode(), "it is not JSON"),
        ("{}".encode("utf-16"), "it is not UTF-8"),
        (b"[" * 200_000, "it is not JSON"),
        (b'{"a":' * 200_000, "it is not JSON"),
        (b"1" * 10_000, "it is not JSON"),
        (b"[]", "it is not a JSON object"),
        (b"null", "it is not a JSON object"),
        (b'"text"', "it is not a JSON object"),
        (b"NaN", "it is not a JSON object"),
        (packed(foreign(headers=[1])), "headers is not an object"),
        (packed(foreign(properties="none")), "properties is not an object"),
        (packed(without("content-type")), "its content type is not application/json"),
        (packed(foreign(**{"content-type": "application/x-python-serialize"})), "its content type is not application/"),
        (packed(foreign(**{"content-type": ["application/json"]})), "its content type is not application/json"),
        (packed(foreign(**{"content-encoding": "binary"})), "its content encoding is not UTF-8"),
        (packed(foreign(**{"content-encoding": {}})), "its content encoding is not UTF-8"),
        (with_header("compression", "application/x-gzip"), "it is compressed"),
        (packed(without("body")), "its body is not text"),
        (packed(foreign(body="%%%")), "its body is not JSON"),
        (packed(foreign(body=base64.b64encode(b"\x80\x04").decode())), "its body is not JSON"),
        (packed(foreign(body=[[{"__type__": "unheard of", "__value__": 1}], {}, {}])), "its body is not JSON"),
        (packed(foreign(body=[[{"__type__": "decimal", "__value__": "x"}], {}, {}])), "its body is not JSON"),
        (packed(foreign(properties={"body_encoding": "rot13"})), "its body's encoding is neither base64 nor utf-8"),
        (packed(foreign(properties={"body_encoding": [1]})), "its body's encoding is neither base64 nor utf-8"),
        (packed(foreign(body=nested(500))), "its body is nested too deeply"),
        (packed(foreign(body=[1])), "its body is not [args, kwargs, embed]"),
        (packed(foreign(body=[[], {}, {}, {}])), "its body is not [args, kwargs, embed]"),
        (packed(foreign(body=["no", {}, {}])), "its body is not [list, object, object]"),
        (packed(foreign(body=[[], [], {}])), "its body is not [list, object, object]"),
        (packed(foreign(body=[[], {}, [1]])), "its body is not [list, object, object]"),
        (packed(without("headers")), "it names no task"),
        (with_header("task", None), "it names no task"),
        (with_header("task", "vqa.misspelt"), "the task vqa.misspelt is unknown"),
        (with_header("task", SECRET), "the task is unknown"),
        (with_header("task", ["vqa.answer"]), "the task is unknown"),
        (with_header("eta", "tomorrow"), "its eta is not a time"),
        (with_header("eta", 5), "its eta is not a time"),
        (with_header("eta", "9999-12-31T23:59:59-23:59"), "its eta is not a time"),
        (with_header("expires", {"in": 5}), "its expires is not a time"),
    ],
)
def test_what_is_malformed_is_named(raw: bytes, reason: str) -> None:
    found = sanitize(raw, "interactive")
    assert isinstance(found, MalformedMessage)
    assert found.reason.startswith(reason)


@pytest.mark.parametrize("id", [None, 7, ["a"], {"a": 1}, "", "x" * 10_000, "a/b", "a b", "a\n", "ü", "\ud800", True])
def test_an_id_that_no_job_can_have_is_no_id(id: object) -> None:
    found = sanitize(with_header("id", id), "bulk")
    assert isinstance(found, MalformedMessage)
    assert found.id is None
    assert found.reason.startswith("task_id: ")


@pytest.mark.parametrize(
    ("id", "waiting"),
    [("scan/0001.png", ("scan/0001.png",)), ("ü b", ("ü b",)), ("\ud800", ()), ("", ()), (7, ()), ("x" * 5000, ())],
)
def test_whoever_waits_under_an_id_that_no_job_can_have_is_known(id: object, waiting: tuple[str, ...]) -> None:
    found = sanitize(with_header("id", id), "bulk")
    assert isinstance(found, MalformedMessage)
    assert found.waiting == waiting


def signature(id: str, **options: Any) -> dict[str, Any]:
    return {"task": TASK, "args": [JOB], "options": {"task_id": id} | options, "subtask_type": None}


@pytest.mark.parametrize(
    ("embed", "field", "waiting"),
    [
        ({"chain": [signature("third"), signature("second")]}, "chain", ("third", "second")),
        ({"chord": signature("body")}, "chord", ("body",)),
        ({"chord": signature("whole") | {"kwargs": {"tasks": [signature("last")]}}}, "chord", ("whole", "last")),
        ({"chain": [signature("next", chord=signature("body"))]}, "chain", ("next", "body")),
        ({"chain": [{"options": 5}, "x", {"options": {"task_id": [1]}}]}, "chain", ()),
    ],
)
def test_a_job_in_a_chain_or_a_chord_is_refused_for_all_who_wait(
    embed: dict[str, Any], field: str, waiting: tuple[str, ...]
) -> None:
    found = sanitize(packed(foreign(body=[[JOB], {}, embed])), "bulk")
    assert isinstance(found, MalformedMessage)
    assert found.reason.startswith(f"{field}: ")
    assert (found.id, found.waiting) == ("a-job", waiting)


def test_a_message_without_a_job_is_no_wake_up() -> None:
    found = sanitize(packed(foreign(body=[[], {}, {}])), "bulk")
    assert isinstance(found, MalformedMessage)
    assert found.reason.startswith("args: missing")
    assert found.id == "a-job"


def test_the_id_is_reported_if_only_the_rest_is_wrong() -> None:
    for raw in (with_header("task", "x"), packed(foreign(body="%%%")), packed(without("content-type"))):
        found = sanitize(raw, "bulk")
        assert isinstance(found, MalformedMessage)
        assert found.id == "a-job"


def test_what_is_too_large_is_not_looked_into() -> None:
    large = packed(foreign(body=[[JOB | {"padding": "x" * 100_000}], {}, {}]))
    found = sanitize(large, "bulk", max_bytes=100_000)
    assert isinstance(found, MalformedMessage)
    assert found.reason.endswith("the limit is 100000 (VQA_MESSAGE_MAX_BYTES)")
    assert found.id == "a-job"
    assert isinstance(sanitize(large, "bulk"), bytes)


@pytest.mark.parametrize("value", ["[]", "{}", "0"])
@pytest.mark.parametrize("as_text", [True, False])
def test_what_is_cheap_to_send_and_dear_to_parse_is_not_parsed(value: str, as_text: bool) -> None:
    heavy = f"[[{','.join([value] * 9_000_000)}],{{}},{{}}]"
    body = heavy if as_text else base64.b64encode(heavy.encode()).decode()
    encoding = {"body_encoding": "utf-8" if as_text else "base64"}
    raw = packed(foreign(body=body, properties=foreign()["properties"] | encoding))
    started = time.perf_counter()
    found = sanitize(raw, "bulk")
    # parsed, each takes tens of seconds
    assert time.perf_counter() - started < 5
    assert isinstance(found, MalformedMessage)
    assert found.reason in ("it has too many values", "its body has too many values")
    assert found.id == "a-job"


def test_a_large_job_passes() -> None:
    large = {"messages": [{"role": "user", "content": "x" * 20_000_000}]}
    assert job_in(sanitize(packed(foreign(body=[[large], {}, {}])), "bulk")) == large


def test_half_a_surrogate_pair_gets_as_far_as_the_job_which_refuses_it(take: Take) -> None:
    safe = sanitize(packed(foreign(body=[[{"messages": [{"role": "user", "content": "\ud800"}]}], {}, {}])), "bulk")
    assert isinstance(safe, bytes)
    take(safe)
    with pytest.raises(InvalidJob):
        Job.from_json(job_in(safe))
