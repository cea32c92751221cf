"""Models that think before they answer: whether a chat template knows thoughts, and where one ends in a text."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

#: how Qwen's, GLM's, DeepSeek's and other models mark a thought
OPEN, CLOSE = "<think>", "</think>"


def knows_thoughts(processor: Any) -> bool:
    """Whether the model may write a thought: its chat template speaks of them."""
    template = str(processor.chat_template or processor.tokenizer.chat_template)
    return OPEN in template or CLOSE in template


def opens_thought(processor: Any) -> bool:
    """Whether every answer begins inside a thought, because the prompt that the template writes ends in `<think>`."""
    if not knows_thoughts(processor):
        return False
    chat = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    try:
        prompt = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    except TemplateError:
        # it refuses this chat, or is wrong; a prompt tells
        return False
    return str(prompt).rstrip().endswith(OPEN)


def split_thought(text: str) -> tuple[str | None, str]:
    """Return the thought at the beginning of a text, None if none ends in it, and the answer after it."""
    thought, close, answer = text.partition(CLOSE)
    if not close:
        return None, text
    return thought.strip().removeprefix(OPEN).strip() or None, answer.lstrip("\n")
