"""The tokenizer: a small byte-level BPE like Qwen2's, trained on the questions and on common English.

Any UTF-8 text can be encoded, since every byte is a token. Knows the special tokens and the chat template.
"""

from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX, Qwen2Tokenizer

from training.palette import COLOURS, PLURALS, SHAPES
from training.phrasings import NOUNS, NUMBERS, SYSTEM_MESSAGES, every_question

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
START, END, TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPECIAL = (TEXT_END, START, END, VISION_START, VISION_END, IMAGE, VIDEO)
VOCABULARY = 1536  # maximum size
CORNERS = ("top left", "top right", "bottom left", "bottom right")

CHAT_TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")


def train_tokenizer() -> Any:
    """Train the tokenizer; the result is the same every time."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    trained.train_from_iterator(_corpus(), trainer)
    return Qwen2Tokenizer(
        vocab=trained.get_vocab(with_added_tokens=True),
        merges=_merges(trained),
        eos_token=END,
        pad_token=TEXT_END,
        extra_special_tokens=[token for token in SPECIAL if token not in (END, TEXT_END)],
        model_max_length=4096,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )


def _merges(trained: Tokenizer) -> Any:
    import json

    return [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]


def _corpus() -> list[str]:
    """Return texts that make words of questions and answers single tokens, and common English to shorten other text."""
    words = [*COLOURS, *SHAPES, *PLURALS.values(), *NUMBERS, *CORNERS, *(word for pair in NOUNS for word in pair)]
    spoken = [f"{word} the {word} is {word}" for word in (*words, "yes", "no", "user", "assistant", "system")]
    questions = every_question()
    lowered = [text[0].lower() + text[1:] for text in questions]
    common = (Path(__file__).parent / "common_english.txt").read_text(encoding="utf-8").splitlines()
    return (questions + lowered) * 2 + (spoken + list(SYSTEM_MESSAGES)) * 20 + common * 3
