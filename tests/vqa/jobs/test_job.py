import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vqa import ImagePart, InvalidJob, Job, Message, RetryPolicy, TextPart, UnsupportedVersion
from vqa.images.store import reference
from vqa.jobs.fields import JobFields
from vqa.jobs.version import VERSION


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


texts = st.text(min_size=1, max_size=50)
parts = st.one_of(
    st.builds(TextPart, text=texts),
    st.builds(ImagePart, image=st.one_of(st.binary(max_size=40), st.binary().map(reference))),
)
#: a response format of version 5
SCORED = {"type": "choice", "choices": ["a", "b"], "probabilities": True}

jobs = st.builds(
    Job,
    messages=st.lists(
        st.builds(
            Message,
            role=st.sampled_from(["system", "user", "assistant"]),
            content=st.lists(parts, min_size=1).map(tuple),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    max_new_tokens=st.integers(1, 32_768),
    temperature=st.just(0.0) | st.floats(0.01, 2),
    top_p=st.floats(0, 1, exclude_min=True),
    seed=st.none() | st.integers(0, 2**63 - 1),
    top_k=st.none() | st.integers(0, 100),
    min_p=st.none() | st.floats(0, 1),
    presence_penalty=st.none() | st.floats(-2, 2),
    frequency_penalty=st.none() | st.floats(-2, 2),
    repetition_penalty=st.none() | st.floats(0.1, 10),
    # of greedy answers there is one
    n=st.just(1),
    max_reasoning_tokens=st.none() | st.integers(0, 100),
    stop=st.lists(texts, max_size=8).map(tuple),
    timeout_s=st.none() | st.floats(0.001, 86_400),
    lane=st.sampled_from(["interactive", "bulk"]),
    retry=st.none() | st.builds(RetryPolicy, attempts=st.integers(1, 100)),
    metadata=st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=4),
)


# on a busy machine a job takes a tenth of a second to make
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(jobs)
def test_a_job_survives_the_way_through_json(job: Job) -> None:
    assert Job.from_json(job.to_json()) == job


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_whatever_is_not_a_job_is_one_named_error(anything: object) -> None:
    with pytest.raises(InvalidJob):
        Job.from_json(json.dumps(anything))


@given(st.binary())
def test_bytes_that_are_no_job_are_one_named_error(anything: bytes) -> None:
    with pytest.raises(InvalidJob):
        Job.from_json(anything)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": 5}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 1e-30}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"retry": {"cap_s": 1e300}}, "retry.cap_s"),
        ({"lane": "fast"}, "lane"),
        ({"id": "with space"}, "id"),
        ({"id": "newline\n"}, "id"),
        ({"retry": {"attempts": 0}}, "retry.attempts"),
        ({"retry": {"tries": 2}}, "retry.tries"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"stop": ["x"] * 9}, "stop"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"n": 17}, "n"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs: it needs logprobs"),
        ({"logprobs": True, "max_new_tokens": 32_768, "top_logprobs": 1}, "is 65,536, and may be 32,768"),
        ({"logprobs": True, "n": 16, "temperature": 1, "max_new_tokens": 2049}, "is 32,784"),
        ({"n": 2}, "n: over 1 it needs a temperature over 0"),
        ({"n": 2, "temperature": 1, "response_format": SCORED}, "n cannot be combined with the probabilities"),
        ({"response_format": {"type": "choice", "choices": ["a"], "probabilities": 1}}, "probabilities"),
        ({"max_reasoning_tokens": -1}, "max_reasoning_tokens"),
    ],
)
def test_a_misspelt_or_impossible_field_is_refused_by_its_name(fields: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidJob, match=named.replace(".", r"\.")):
        Job.about(png(), "What is it?", **fields)


def test_a_refusal_does_not_repeat_the_users_words() -> None:
    with pytest.raises(InvalidJob) as caught:
        Job(messages=[{"role": "user", "content": "secret question"}], metadata={"a": {"secret": "question"}})
    assert "secret" not in str(caught.value)


def test_a_newer_format_is_refused_by_its_own_error() -> None:
    with pytest.raises(UnsupportedVersion, match=f"format {VERSION + 1}"):
        Job.from_json({"version": VERSION + 1, "whatever": "a later vqa writes"})


#: as the first release wrote it
FIRST_FORMAT = {
    "version": 1,
    "id": "a",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}]}],
    "max_new_tokens": 256,
    "temperature": 0.0,
    "stop": [],
    "lane": "interactive",
    "metadata": {},
}


def test_a_job_that_asks_for_nothing_new_is_written_as_workers_of_the_first_release_read_it() -> None:
    job = Job.from_json(FIRST_FORMAT)
    assert json.loads(job.to_json()) == FIRST_FORMAT
    # which reads a missing temperature as 0
    left_out = {name: value for name, value in FIRST_FORMAT.items() if name != "temperature"}
    assert json.loads(Job(id="a", messages=job.messages).to_json()) == left_out


@pytest.mark.parametrize(
    ("new", "first"),
    [
        ({"top_p": 0.9}, 2),
        ({"seed": 0}, 2),
        ({"top_p": 0.5, "seed": 7}, 2),
        ({"tenant": "lab"}, 3),
        ({"batch": "batch_1", "seed": 7}, 3),
        ({"reuse": True}, 3),
        ({"top_k": 0}, 5),
        ({"min_p": 0.1}, 5),
        ({"presence_penalty": 0.0}, 5),
        ({"frequency_penalty": -1.0}, 5),
        ({"repetition_penalty": 1.0}, 5),
        ({"logprobs": True}, 5),
        ({"logprobs": True, "top_logprobs": 5}, 5),
        ({"n": 2, "temperature": 0.5}, 5),
        ({"response_format": {"type": "choice", "choices": ["a", "b"]}}, 3),
        ({"response_format": SCORED}, 5),
        ({"max_reasoning_tokens": 0}, 5),
    ],
)
@pytest.mark.parametrize("version", [{}, {"version": 1}, {"version": 2}])
def test_a_job_that_asks_for_what_is_new_tells_older_workers_by_its_version(
    new: dict[str, object], first: int, version: dict[str, int]
) -> None:
    fields = {name: value for name, value in FIRST_FORMAT.items() if name != "version"}
    written = json.loads(Job.from_json({**fields, **new, **version}).to_json())
    assert written == {**FIRST_FORMAT, **new, "version": first}


@pytest.mark.parametrize("image", ["ftp://example.org/a.png", "file:///etc/passwd", "/etc/passwd", "sha256:xyz"])
def test_an_image_on_the_wire_is_bytes_a_reference_or_an_address_to_fetch(image: str) -> None:
    with pytest.raises(InvalidJob, match="an image must be"):
        Job.from_json({"messages": [{"role": "user", "content": [{"type": "image", "image": image}]}]})


def test_a_job_with_too_many_images_is_refused_before_any_is_read() -> None:
    photo = {"type": "image", "image": reference(b"")}
    with pytest.raises(InvalidJob, match="64 images"):
        Job(messages=[{"role": "user", "content": [photo] * 65}])


def test_nesting_without_end_is_a_named_error() -> None:
    with pytest.raises(InvalidJob):
        Job.from_json("[" * 100_000)


@pytest.mark.parametrize("mode", ["CMYK", "F", "YCbCr", "1", "I;16", "P", "LA"])
def test_a_pil_image_of_any_mode_may_be_asked_about(mode: str) -> None:
    job = Job.about(Image.new(mode, (4, 4)), "What is it?")
    (part,) = job.images()
    assert isinstance(part.image, bytes)
    assert Image.open(io.BytesIO(part.image)).size == (4, 4)


def test_an_address_given_as_an_image_stays_one_until_it_is_submitted() -> None:
    job = Job.about("https://example.org/a.png", "What is it?")
    assert list(job.contents()) == ["https://example.org/a.png"]
    assert job.version == 4


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({}, "either frames or a file"),
        ({"frames": [reference(b"a")], "video": reference(b"b")}, "either frames or a file"),
        ({"video": reference(b"b"), "times_s": [0.0]}, "only for frames"),
        ({"frames": [reference(b"a")], "times_s": [0.0, 1.0]}, "2 times for 1 frames"),
        ({"frames": [reference(b"a")] * 2, "times_s": [1.0, 0.5]}, "must rise"),
        ({"frames": [reference(b"a")], "max_frames": 2}, "only for a file"),
        ({"frames": [reference(b"a")] * 257}, "at most 256"),
    ],
    ids=["neither", "both", "times-of-a-file", "too-many-times", "falling-times", "limit-of-frames", "too-many-frames"],
)
def test_a_video_that_contradicts_itself_is_refused(part: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidJob, match=said):
        Job(messages=[{"role": "user", "content": [{"type": "video", **part}]}])


def test_the_images_of_a_video_are_replaced_by_their_references() -> None:
    frames = [png(), b"other"]
    job = Job(messages=[{"role": "user", "content": [{"type": "video", "frames": frames, "times_s": [0, 0.5]}]}])
    assert list(job.with_images({data: reference(data) for data in frames}).contents()) == list(map(reference, frames))


def test_images_are_replaced_by_their_references_and_words_stay() -> None:
    data = png()
    job = Job.about(data, "What is it?").with_images({data: reference(data)})
    assert [part.image for part in job.images()] == [reference(data)]
    assert job.messages[0].content[1] == TextPart(text="What is it?")


@given(st.integers(1, 10_000), st.floats(0, 86_400), st.floats(0, 86_400))
def test_a_retry_is_never_later_than_the_cap(attempt: int, base_s: float, cap_s: float) -> None:
    assert 0 <= RetryPolicy(base_s=base_s, cap_s=cap_s).longest_delay_s(attempt) <= cap_s


def test_only_a_greedy_job_may_be_given_an_earlier_answer() -> None:
    messages = [{"role": "user", "content": "?"}]
    assert Job(messages=messages, reuse=True).version == 3
    with pytest.raises(InvalidJob, match="only a greedy job"):
        Job(messages=messages, reuse=True, temperature=0.5)


@pytest.mark.parametrize(
    ("fields", "given"),
    [
        ({}, False),
        ({"seed": 1, "max_new_tokens": 5, "logprobs": True}, False),
        ({"temperature": 0}, True),
        ({"top_p": 0.9}, True),
        ({"top_k": 0}, True),
        ({"min_p": 0.0}, True),
        ({"repetition_penalty": 1.0}, True),
        ({"presence_penalty": 0.0}, True),
        ({"reuse": True}, True),
    ],
    ids=lambda value: ",".join(value) or "nothing" if isinstance(value, dict) else "",
)
def test_a_worker_knows_whether_a_job_says_how_tokens_are_chosen(fields: dict[str, object], given: bool) -> None:
    job = Job.about(png(), "What is it?", **fields)
    stored = job.with_images({png(): reference(png())})
    assert job.sampling_is_given == Job.from_json(stored.to_json()).sampling_is_given == given
    assert job.temperature == 0


@pytest.mark.parametrize("question", ["", " \n\t"])
def test_an_empty_question_is_refused_when_the_job_is_made(question: str) -> None:
    with pytest.raises(InvalidJob, match="question: it is empty"):
        Job.about(png(), question)


def test_the_keywords_of_a_question_are_the_fields_of_a_job() -> None:
    assert set(JobFields.__annotations__) == set(Job.model_fields) - {"messages", "version"}
