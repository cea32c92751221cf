from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.workers.engine.conftest import SOON, make_prompt
from vqa.errors import Cancelled, EngineError
from workers.engine.base import Completion
from workers.engine.runtime.pending import Pending
from workers.engine.text.generation import Generation

TOKENIZER: Any = AutoTokenizer.from_pretrained(Path(__file__).parents[4] / "models" / "tiny-vl")
ENDS = frozenset({TOKENIZER.eos_token_id})
SIGNS = st.sampled_from("ab \n.é€😀\ufffd")


def row(on_text: Callable[[str], None] | None = None, **how: Any) -> Generation:
    prompt = make_prompt("a", (), on_text=on_text, **{"max_new_tokens": 1000, **how})
    return Generation(Pending(prompt), 7, TOKENIZER, ENDS)


def run(row: Generation, tokens: Iterable[int]) -> Generation:
    for token in tokens:
        row.add(token)
    return row


def words(text: str, *, ended: bool = True) -> list[int]:
    return [*TOKENIZER.encode(text), *(ENDS if ended else ())]


@given(
    tokens=st.lists(st.integers(0, len(TOKENIZER) + 1), max_size=60) | st.text(SIGNS, max_size=60).map(words),
    stop=st.lists(st.text(SIGNS, min_size=1, max_size=4), max_size=3).map(tuple),
    max_new_tokens=st.integers(1, 80),
)
@settings(deadline=None, max_examples=300)
def test_the_pieces_joined_are_the_answer_and_listening_changes_nothing(
    tokens: list[int], stop: tuple[str, ...], max_new_tokens: int
) -> None:
    pieces: list[str] = []
    tokens = [*tokens, *ENDS]

    heard = run(row(pieces.append, stop=stop, max_new_tokens=max_new_tokens), tokens).pending.future.result(0)
    unheard = run(row(stop=stop, max_new_tokens=max_new_tokens), tokens).pending.future.result(0)
    shown = [token for token in tokens[: heard.completion_tokens] if token not in TOKENIZER.all_special_ids]
    whole = TOKENIZER.decode(shown)

    assert heard == unheard
    assert "".join(pieces) == heard.text
    assert all(pieces)
    assert heard.text == whole[: min((at for word in stop if (at := whole.find(word)) >= 0), default=len(whole))]
    assert heard.completion_tokens <= max_new_tokens


def test_the_end_of_text_is_counted_and_not_shown() -> None:
    tokens = words("a red square")

    assert run(row(), tokens).pending.future.result(0) == Completion("a red square", "stop", 7, len(tokens))


def test_a_piece_is_told_with_its_token_and_a_stop_that_has_begun_is_not() -> None:
    pieces: list[str] = []
    heard = row(pieces.append, stop=("blue",))

    run(heard, words("red blu", ended=False))
    assert "".join(pieces) == "red "
    run(heard, words("s", ended=False))
    assert "".join(pieces) == "red blus"
    run(heard, words(" blue", ended=False))

    assert heard.pending.future.result(0).finish_reason == "stop"
    assert "".join(pieces) == heard.pending.future.result(0).text == "red blus "


def test_a_callback_that_fails_fails_its_prompt_alone_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def fails(piece: str) -> None:
        raise ValueError("secret words of a user")

    with caplog.at_level(logging.INFO):
        heard = run(row(fails), words("a red square"))

    error = heard.pending.future.exception(0)
    assert isinstance(error, EngineError)
    assert "ValueError" in str(error)
    assert [record.exc_info for record in caplog.records] == [None]
    assert "secret" not in caplog.text + str(error)
    assert "square" not in caplog.text


def test_nothing_is_told_of_a_prompt_that_has_ended() -> None:
    pieces: list[str] = []
    heard = run(row(pieces.append), words("a red", ended=False))
    before = list(pieces)
    heard.pending.fail(Cancelled("cancelled"))
    run(heard, words(" square"))

    assert pieces == before


@given(text=st.text(SIGNS, max_size=30), first=st.integers(0, 60), again=st.integers(0, 60))
@settings(deadline=None)
def test_a_row_that_is_run_again_sends_nothing_twice(text: str, first: int, again: int) -> None:
    pieces: list[str] = []
    heard = row(pieces.append)
    for count in (first, again):
        run(heard, words(text, ended=False)[:count])
        heard.restart()
    run(heard, words(text))

    assert "".join(pieces) == heard.pending.future.result(0).text == text


@pytest.mark.parametrize("second", ["a red square", "a blue", ""])
def test_a_row_that_gets_another_answer_when_it_is_run_again_fails(second: str) -> None:
    pieces: list[str] = []
    heard = run(row(pieces.append), words("a blue square", ended=False))
    heard.restart()
    run(heard, words(second))

    assert isinstance(heard.pending.future.exception(0), EngineError)
    assert "".join(pieces) == "a blue square"


def test_it_needs_no_torch_and_no_transformers() -> None:
    program = (
        "import sys\n"
        "import workers.engine.text.generation\n"
        "sys.exit(bool({'torch', 'transformers', 'celery'} & sys.modules.keys()))\n"
    )

    assert subprocess.run([sys.executable, "-c", program], timeout=SOON, check=False).returncode == 0
