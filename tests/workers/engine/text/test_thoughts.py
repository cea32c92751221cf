"""Models that think before they answer."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.worker_process import TINY
from tests.workers.engine.conftest import SOON, ask, guided, image, make_prompt
from vqa.errors import InvalidJob
from vqa.grammar import one_of
from workers.engine.base import Completion, Turn
from workers.engine.factory import make_engine
from workers.engine.runtime.pending import Pending
from workers.engine.settings import EngineSettings
from workers.engine.text.generation import Generation
from workers.engine.text.special_tokens import SpecialTokens
from workers.engine.text.thoughts import knows_thoughts, opens_thought, split_thought

GRAMMAR = one_of(["red", "blue"])


@pytest.fixture(scope="session")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with a chat template that opens a thought."""
    folder = shutil.copytree(TINY, tmp_path_factory.mktemp("thinking") / "tiny-think")
    template = (folder / "chat_template.jinja").read_text()
    assert template.count("assistant\\n'") == 1
    (folder / "chat_template.jinja").write_text(template.replace("assistant\\n'", "assistant\\n<think>\\n'"))
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    tokenizer: Any = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_tokens(["<think>", "</think>", "<tool_call>"])
    return tokenizer


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("it is warm\n</think>\n\nred", "it is warm", "red"),
        ("<think>\nit is warm</think>red", "it is warm", "red"),
        ("a</think>b</think>c", "a", "b</think>c"),
        ("\n\n</think>\n\nred", None, "red"),
        ("it is wa", None, "it is wa"),
        ("", None, ""),
    ],
)
def test_a_text_is_split_where_its_thought_ends(text: str, thought: str | None, answer: str) -> None:
    assert split_thought(text) == (thought, answer)


def generated(tokenizer: Any, text: str, thinks: bool = True, **how: Any) -> Completion:
    prompt = make_prompt("a", (), **{"max_new_tokens": 1000, **how})
    row = Generation(Pending(prompt), 7, tokenizer, {tokenizer.eos_token_id}, thinks=thinks)
    for token in [*tokenizer.encode(text), tokenizer.eos_token_id]:
        row.add(token)
    return row.pending.future.result(0)


@pytest.mark.parametrize("special", [False, True])
def test_the_thought_is_cut_from_the_text_whatever_kind_of_token_ends_it(tokenizer: Any, special: bool) -> None:
    if special:
        tokenizer = AutoTokenizer.from_pretrained(TINY)
        tokenizer.add_special_tokens({"additional_special_tokens": ["</think>"]})

    made = generated(tokenizer, "it is warm\n</think>\n\nred")

    assert (made.reasoning, made.text, made.finish_reason) == ("it is warm", "red", "stop")
    assert made.completion_tokens == len(tokenizer.encode("it is warm\n</think>\n\nred")) + 1


def test_a_thought_that_does_not_end_stays_the_text_and_other_models_texts_stay_whole(tokenizer: Any) -> None:
    cut = generated(tokenizer, "it is warm and", max_new_tokens=3)
    other = generated(tokenizer, "a</think>b", thinks=False)

    assert (cut.reasoning, cut.finish_reason) == (None, "length")
    assert "it is warm and".startswith(cut.text)
    assert (other.reasoning, other.text) == (None, "a</think>b")


@given(text=st.lists(st.sampled_from(["a", " b", "</think>", "<think>", "\n", "é"]), max_size=8).map("".join))
def test_the_pieces_joined_are_the_answer_without_its_thought(tokenizer: Any, text: str) -> None:
    pieces: list[str] = []

    heard = generated(tokenizer, text, on_text=pieces.append)

    assert heard == generated(tokenizer, text)
    assert "".join(pieces) == heard.text


def test_ends_of_thoughts_in_a_chat_reach_its_template_and_control_tokens_do_not(tokenizer: Any) -> None:
    tokens = SpecialTokens(SimpleNamespace(tokenizer=tokenizer))

    assert tokens.escape("<think>\nhm\n</think>\n\nred") == "<think>\nhm\n</think>\n\nred"
    assert tokens.escape("</think><tool_call><|im_end|>") == "</think>< tool_call>< |im_end|>"


@pytest.mark.parametrize("name", ["continuous", "pipeline"])
def test_a_thinking_model_says_so_and_refuses_structured_answers_by_name(
    thinking: Path, name: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "workers.engine.model_engine")
    engine = make_engine(EngineSettings(model=str(thinking), engine=name), slots=2)
    engine.start(lambda error, ids: None)
    begun = (Turn("user", (image(0), "which colour?")), Turn("assistant", ("It is ",)))
    try:
        refused = engine.submit(guided(ask(0), GRAMMAR))
        free = engine.submit(ask(1))
        # the prompt ends in the answer's own beginning, not in a thought
        continued = engine.submit(guided(make_prompt("begun", begun), GRAMMAR))

        with pytest.raises(InvalidJob, match=r"response_format: this model thinks before it answers"):
            refused.result(SOON)
        assert free.result(SOON).completion_tokens
        assert continued.result(SOON).text in {"red", "blue"}
    finally:
        engine.stop()

    # transformers warns of settings, more or less by release
    ours = [record.message.partition(":")[0] for record in caplog.records if record.name.startswith("workers.")]
    assert ours == ["tiny-think thinks before it answers"]


def test_the_bundled_model_does_not_think(tokenizer: Any) -> None:
    template = (TINY / "chat_template.jinja").read_text()
    processor = SimpleNamespace(tokenizer=tokenizer, chat_template=template)

    assert not knows_thoughts(processor)
    assert not opens_thought(processor)
