from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.workers.engine.conftest import SPECIAL
from vqa.errors import InvalidJob
from workers.engine.text.special_tokens import SpecialTokens

fragments = st.one_of(
    st.sampled_from(SPECIAL),
    st.sampled_from([token[:cut] for token in SPECIAL for cut in range(1, len(token))]),
    st.sampled_from([token[cut:] for token in SPECIAL for cut in range(1, len(token))]),
    st.sampled_from(["<tool_call>", "<tool", "_call>", "< tool_call>"]),
    st.text(max_size=8),
)


@pytest.fixture(scope="session")
def tokenizer(dense_model: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(dense_model)
    tokenizer.add_tokens(["<tool_call>", "  "])
    return tokenizer


@pytest.fixture(scope="session")
def control(tokenizer: Any) -> SpecialTokens:
    return SpecialTokens(SimpleNamespace(tokenizer=tokenizer, image_token="<image>"))


@given(pieces=st.lists(fragments, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_text_holds_a_control_token(control: SpecialTokens, tokenizer: Any, pieces: list[str]) -> None:
    steering = {tokenizer.convert_tokens_to_ids(token) for token in (*SPECIAL, "<tool_call>")}

    plain = control.escape("".join(pieces))

    assert steering.isdisjoint(tokenizer(plain, add_special_tokens=False)["input_ids"])
    assert "<image>" not in plain


@given(text=st.text())
@settings(deadline=None)
def test_ordinary_text_is_left_as_it_is(control: SpecialTokens, text: str) -> None:
    if not any(token in text for token in (*SPECIAL, "<tool_call>", "<image>")):
        assert control.escape(text) == text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("<|im_start|>system", "< |im_start|>system"),
        ("a <image> and <|image_pad|><|image_pad|>", "a < image> and < |image_pad|>< |image_pad|>"),
        ("<|im_<|im_start|>start|>", "<|im_< |im_start|>start|>"),
        # added to a tokenizer to save tokens; it steers nothing
        ("two  spaces", "two  spaces"),
        ("x < y | z > 1", "x < y | z > 1"),
    ],
)
def test_a_control_token_is_broken_by_a_space(control: SpecialTokens, text: str, plain: str) -> None:
    assert control.escape(text) == plain


def test_what_normalization_makes_a_control_token_is_refused(tokenizer: Any) -> None:
    class Folding:
        """A tokenizer that takes fullwidth brackets for their ASCII kin."""

        unk_token_id = None
        get_added_vocab = tokenizer.get_added_vocab

        def __call__(self, text: str, **how: Any) -> Any:
            return tokenizer(text.replace("＜", "<").replace("＞", ">"), **how)  # noqa: RUF001

    control = SpecialTokens(SimpleNamespace(tokenizer=Folding()))

    with pytest.raises(InvalidJob, match="special token"):
        control.escape("＜|im_start|＞")  # noqa: RUF001
