"""Whatever the bytes of an entry: it is a request with a usable id, or it is refused with a reason."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqa.jobs.job import Job
from workers.consumer.sanitize import usable_id
from workers.inbox.entry import Entry, Refused, Request, parse

SECRET = "the-secret-question"
JOB: dict[str, Any] = {"id": "a-job", "messages": [{"role": "user", "content": SECRET}]}
MAX_BYTES = 100_000
TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"


def request(job: object = JOB, **fields: bytes) -> Request:
    body = job if isinstance(job, bytes) else json.dumps(job).encode()
    return parse(Entry("1-1", {b"job": body} | {name.encode(): value for name, value in fields.items()}), MAX_BYTES)


def refused(job: object = JOB, **fields: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        request(job, **fields)
    assert SECRET not in str(caught.value)
    return caught.value


def test_an_entry_is_read() -> None:
    assert request() == Request("a-job", "interactive", JOB)
    assert request(JOB | {"lane": "bulk"}, reply=b"vqa:reply:a").lane == "bulk"
    assert request(reply=b"vqa:reply:a").reply == "vqa:reply:a"
    assert request(reply=b"").reply == ""
    assert request(stream=b"1").stream
    assert not request(stream=b"").stream
    assert request(trace=TRACE.encode()).trace == TRACE


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (b"\xff\xfe", "job: it is not UTF-8"),
        (b"", "job: it is not JSON"),
        (b"{" + SECRET.encode(), "job: it is not JSON"),
        (b"[" * 99_000, "job: it is not JSON"),
        (b"[" * 40_000 + b"]" * 40_000, "job: it is not JSON"),
        (b'"text"', "job: it is not a JSON object"),
        (b"[]", "job: it is not a JSON object"),
        (b"null", "job: it is not a JSON object"),
        (b"{}", "id: required in the inbox"),
        (b'{"id": 7}', "id: required in the inbox"),
        (b'{"id": "a b"}', "id: required in the inbox"),
        (b'{"id": "' + b"a" * 129 + b'"}', "id: required in the inbox"),
        (b'{"id": "a", "metadata": ' + b"[" * 40 + b"]" * 40 + b"}", "job: it is nested too deeply"),
        (b"[" + b"1," * 60_000 + b"1]", "it has 120006 bytes; the limit is 100000 (VQA_MESSAGE_MAX_BYTES)"),
    ],
)
def test_what_is_no_job_is_refused_with_the_reason(job: bytes, said: str) -> None:
    assert str(refused(job)).startswith(said)
    assert refused(job).request is None


def test_more_values_than_a_job_has_are_not_parsed() -> None:
    body = b'{"id": "a", "messages": [' + b"{}," * 200_001 + b"{}]}"
    with pytest.raises(Refused, match="too many values"):
        parse(Entry("1-1", {b"job": body}), 10 * MAX_BYTES)


def test_a_refusal_names_the_job_where_it_can() -> None:
    assert refused(reply=b"vqa:jobs").request == Request("a-job", "interactive", JOB)
    assert str(refused(reply=b"vqa:reply:")).startswith("reply: a reply list is named vqa:reply:NAME")
    assert str(refused(reply=b"\xff")).startswith("reply:")
    assert str(refused(stream=b"yes")).startswith("stream: 1, if")
    assert str(refused(trace=b"\xff")) == "trace: it is not a W3C traceparent"
    typing_error = refused(JOB, replay=b"vqa:reply:a", reply=b"vqa:reply:b")
    assert str(typing_error) == "replay: an entry of the inbox has no such field"
    assert typing_error.request == Request("a-job", "interactive", JOB, "vqa:reply:b")


def test_an_entry_without_a_job_is_refused() -> None:
    with pytest.raises(Refused, match="job: missing"):
        parse(Entry("1-1", {b"jobs": b"{}"}), MAX_BYTES)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from([b"job", b"reply", b"stream", b"trace", b"\xff"]) | st.binary(max_size=12)
changes = st.dictionaries(st.sampled_from([*JOB, "lane", "seed"]), json_values)
near_jobs = st.builds(lambda change: json.dumps(JOB | change).encode(), changes)
values = st.binary(max_size=200) | st.builds(lambda value: json.dumps(value).encode(), json_values) | near_jobs


def reading(entry: Entry, max_bytes: int) -> Request | Refused:
    try:
        return parse(entry, max_bytes)
    except Refused as refused:
        return refused


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(names, values, max_size=5), st.integers(0, 400))
def test_any_bytes_are_a_request_or_a_refusal(fields: dict[bytes, bytes], max_bytes: int) -> None:
    found = reading(Entry("1-1", fields), max_bytes)
    if isinstance(found, Refused):
        assert str(found)
        assert SECRET not in str(found)
    request = found.request if isinstance(found, Refused) else found
    if request is not None:
        assert usable_id(request.id) == request.id == request.fields["id"]
        assert request.reply == "" or request.reply.startswith("vqa:reply:")


def test_every_job_that_a_client_sends_is_read() -> None:
    job = Job(messages=[{"role": "user", "content": SECRET}], lane="bulk", tenant="one", metadata={"a": "b"})
    read = request(job.to_json())
    assert Job.from_json(read.fields) == job
