"""What a key's limit of tokens is charged before a job has run: never less than the answers can have."""

from __future__ import annotations

from typing import Any

import pytest

from producer.gateway.chat.tokens import answer_tokens, prompt_tokens, used_tokens
from tests.producer.conftest import answer
from vqa.jobs.job import Job

SCORED = {"type": "choice", "choices": ["yes", "perhaps"], "probabilities": True}


def job(**fields: Any) -> Job:
    return Job(messages=[{"role": "user", "content": "What is it?"}], **fields)


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, 256),
        ({"max_new_tokens": 10}, 10),
        ({"max_new_tokens": 10, "max_reasoning_tokens": 100}, 110),
        ({"max_new_tokens": 10, "max_reasoning_tokens": 100, "n": 3, "temperature": 1}, 330),
        # every choice and its end of text: 1 and 1, 3 and 1
        ({"response_format": SCORED}, 6),
        ({"response_format": SCORED, "max_new_tokens": 2}, 5),
    ],
    ids=["default", "given", "thought", "answers", "choices", "cut-choices"],
)
def test_answers_thoughts_and_choices_are_reserved(fields: dict[str, Any], most: int) -> None:
    assert answer_tokens(job(**fields)) == most


def test_a_prompt_is_reserved_once_for_several_answers() -> None:
    assert prompt_tokens(job(n=4, temperature=1)) == prompt_tokens(job())


@pytest.mark.parametrize(("reused", "used"), [(False, 5), (True, 0)], ids=["computed", "reused"])
def test_only_computed_tokens_are_used(reused: bool, used: int) -> None:
    assert used_tokens(answer("a", "a").model_copy(update={"reused": reused})) == used
