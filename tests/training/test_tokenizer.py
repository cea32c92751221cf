"""Any text encodes and comes back, and prompts fit the rows of training."""

import random
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from training.data import OPENING, SEGMENT
from training.palette import COLOURS, SHAPES
from training.phrasings import FAMILIES, NUMBERS, SYSTEM_MESSAGES, TEMPLATES, phrase
from training.tokenizer import CORNERS, SPECIAL, train_tokenizer

TOKENIZER = train_tokenizer()


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    normal = unicodedata.normalize("NFC", text)
    assert TOKENIZER.decode(TOKENIZER.encode(normal), clean_up_tokenization_spaces=False) == normal


def test_special_tokens_are_single() -> None:
    assert [TOKENIZER.encode(token) for token in SPECIAL] == [[number] for number in range(len(SPECIAL))]


def test_answers_are_one_or_two_tokens() -> None:
    for answer in (*COLOURS, *SHAPES, *NUMBERS, "yes", "no"):
        assert len(TOKENIZER.encode(answer)) == 1
    assert all(len(TOKENIZER.encode(corner)) == 2 for corner in CORNERS)


def longest_question(family: str) -> int:
    """In tokens; no subject is longer than these."""
    rng = random.Random(0)
    by_corner = family in ("colour", "shape")
    subjects = ["object at the bottom right"] if by_corner else ["purple triangles", "orange diamond"]
    tries = [phrase(rng, family, subject) for subject in subjects for _ in range(40 * len(TEMPLATES[family]))]
    return max(len(TOKENIZER.encode(text)) for text in tries)


def test_the_longest_question_and_its_answer_fit_a_segment() -> None:
    turn = len(TOKENIZER.encode("<|im_end|>\n<|im_start|>assistant\n"))
    for family in FAMILIES:
        answer = 2 if family == "where" else 1
        assert longest_question(family) + turn + answer + 1 <= SEGMENT


def test_the_longest_opening_fits() -> None:
    system = max(len(TOKENIZER.encode(f"<|im_start|>system\n{text}<|im_end|>\n")) for text in SYSTEM_MESSAGES)
    user = len(TOKENIZER.encode("<|im_start|>user\n")) + max(map(longest_question, FAMILIES)) + 1
    assert system + user <= OPENING


def test_the_template_writes_turns_as_qwen_does() -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many stars are there?"}]},
    ]
    assert TOKENIZER.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How many stars are there?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_training_the_tokenizer_again_gives_the_same() -> None:
    assert train_tokenizer().get_vocab() == TOKENIZER.get_vocab()
