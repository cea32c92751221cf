from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from vqa import Answer, Job
from vqa.answer import Timings, Usage
from vqa.images.store import reference
from vqa.redis.connection import connect
from vqa.settings import QueueSettings
from workers.engine.settings import EngineSettings
from workers.jobs.answer_cache import AnswerCache, model_identity, remote_identity

PNG = b"\x89PNG an image"
CHOICE: dict[str, Any] = {"type": "choice", "choices": ["red", "blue"]}


def job(image: bytes | str = PNG, **fields: Any) -> Job:
    parts = [{"type": "image", "image": image}, {"type": "text", "text": "?"}]
    return Job(messages=[{"role": "user", "content": parts}], **{"reuse": True} | fields)


@pytest.fixture
def answer() -> Answer:
    usage, timings = Usage(prompt_tokens=5, completion_tokens=1), Timings(queued_s=0, media_s=0, engine_s=1, total_s=1)
    return Answer(
        id="a", text="red", finish_reason="stop", usage=usage, timings=timings, model="m", worker="w", attempt=1
    )


def test_a_image_and_its_reference_are_the_same_question(redis: Redis, answer: Answer) -> None:
    cache = AnswerCache(redis, "m", 60)
    cache.put(job(PNG), answer)
    assert cache.get(job(reference(PNG))) == answer
    assert cache.get(job(reference(b"another"))) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "other"},
        {"lane": "bulk", "timeout_s": 5.0, "retry": {"attempts": 7}},
        {"batch": "b", "metadata": {"a": "b"}},
        {"seed": 3, "top_p": 0.5},
    ],
)
def test_what_does_not_change_a_greedy_answer_is_not_part_of_the_question(
    redis: Redis, answer: Answer, fields: dict[str, Any]
) -> None:
    cache = AnswerCache(redis, "m", 60)
    cache.put(job(), answer)
    assert cache.get(job(**fields)) == answer


@pytest.mark.parametrize(
    "fields",
    [
        {"max_new_tokens": 7},
        {"stop": ["."]},
        {"response_format": {"type": "json_object"}},
        {"response_format": CHOICE},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"repetition_penalty": 1.1},
        {"logprobs": True},
        {"max_reasoning_tokens": 9},
        {"reuse": False},
        # what another has asked is not told
        {"tenant": "another"},
    ],
)
def test_what_does_is(redis: Redis, answer: Answer, fields: dict[str, Any]) -> None:
    cache = AnswerCache(redis, "m", 60)
    cache.put(job(), answer)
    assert cache.get(job(**fields)) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"response_format": CHOICE}, {"response_format": CHOICE | {"probabilities": True}}),
        ({"logprobs": True}, {"logprobs": True, "top_logprobs": 2}),
    ],
    ids=["probabilities", "top_logprobs"],
)
def test_an_answer_that_tells_more_is_another(
    redis: Redis, answer: Answer, one: dict[str, Any], other: dict[str, Any]
) -> None:
    cache = AnswerCache(redis, "m", 60)
    cache.put(job(**one), answer)
    assert cache.get(job(**other)) is None
    assert cache.get(job(**one)) == answer


def test_each_model_has_answers_of_its_own(redis: Redis, answer: Answer) -> None:
    AnswerCache(redis, "m", 60).put(job(), answer)
    assert AnswerCache(redis, "another", 60).get(job()) is None


def test_a_redis_that_is_away_or_full_costs_no_job_anything(
    redis: Redis, redis_url: str, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    redis.config_set("maxmemory", 1)
    try:
        AnswerCache(redis, "m", 60).put(job(), answer)
    finally:
        redis.config_set("maxmemory", 0)
    assert "answer cache: an answer is not cached: OutOfMemoryError" in caplog.text
    with connect(QueueSettings(redis_url="redis://127.0.0.1:1/0"), retry_s=0) as nowhere:
        cache = AnswerCache(nowhere, "m", 60)
        cache.put(job(), answer)
        assert cache.get(job()) is None
    assert "answer cache: lookup failed, the job is computed: ConnectionError" in caplog.text


def test_a_model_in_a_folder_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c", "d")]
    for folder in folders:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(bytes(200_000))
    (folders[1] / "model.safetensors").write_bytes(bytes(199_999) + b"1")
    (folders[2] / "config.json").write_text("[]")
    a, b, c, d = (model_identity(EngineSettings(model=str(folder))) for folder in folders)
    assert a == d
    assert len({a, b, c}) == 3
    a_name = EngineSettings(model="some/model")
    others = [EngineSettings(model="some/model", **{name: value}) for name, value in _OTHER.items()]
    assert len({model_identity(settings) for settings in (a_name, *others)}) == 1 + len(others)


_OTHER: dict[str, Any] = {
    **{"revision": "v2", "quant": "int4", "dtype": "float32"},
    **{"max_image_tokens": 500, "high_image_tokens": 2000, "slot_tokens": 2000},
    "max_reasoning_tokens": 100,
}


def test_models_that_other_servers_call_the_same_are_told_apart_by_the_names_given_to_workers() -> None:
    settings = EngineSettings(engine="remote", model="unused")

    def identity(*names: str) -> str:
        return remote_identity(settings, "served", names)

    assert identity() == model_identity(EngineSettings(engine="remote", model="served"))
    assert identity("chat", "fast") == identity("fast", "chat")
    assert len({identity(), identity("chat"), identity("chat-next"), identity("chat", "fast")}) == 4
