"""From prompts to a model's input tensors: each alone, so that a bad one fails alone, then some together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline
from transformers.utils.chat_template_utils import Chat

from vqa.errors import EngineError, InvalidJob, PromptTooLong, VQAError
from workers.engine.base import Prompt, Turn
from workers.engine.control import ControlTokens

#: no tokenizer makes fewer tokens of a longer text; refused before it costs the tokenizer seconds
_MOST_CHARACTERS_A_TOKEN = 128


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One prompt as tensors with a leading dimension of 1 (or of its patches and pictures)."""

    inputs: Mapping[str, Tensor]
    prompt_tokens: int

    @property
    def kind(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What must be equal for prompts to run together: the tensors' names and all sizes but the leading ones."""
        return tuple((name, self._rest(tensor)) for name, tensor in sorted(self.inputs.items()))

    def is_text(self, tensor: Tensor) -> bool:
        """Whether `tensor` has one whole number a token, and so is padded rather than strung together."""
        return tensor.shape == (1, self.prompt_tokens) and not tensor.is_floating_point()

    def _rest(self, tensor: Tensor) -> tuple[int, ...]:
        return () if self.is_text(tensor) else tuple(tensor.shape[1:])


class Encoder:
    """A loaded pipeline's preprocessing. Belongs to one thread, as the pipeline's tokenizer does."""

    def __init__(self, pipe: ImageTextToTextPipeline, slot_tokens: int) -> None:
        # its methods have no types
        self._pipe: Any = pipe
        self._slot_tokens = slot_tokens
        self._control = ControlTokens(pipe.processor)
        tokenizer: Any = pipe.tokenizer
        self._pad_id = next(id for id in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if id is not None)

    def encode(self, prompt: Prompt) -> Encoded:
        """The prompt's tensors. Raises PromptTooLong, or another VQAError where the processor refuses it."""
        characters = sum(len(part) for turn in prompt.turns for part in turn.parts if isinstance(part, str))
        self._check_fits("at least ", characters // _MOST_CHARACTERS_A_TOKEN, prompt.max_new_tokens)
        try:
            chat: Any = [self._message(turn) for turn in prompt.turns]
            made = self._pipe.preprocess(Chat(chat))
            inputs = {name: value for name, value in made.items() if isinstance(value, Tensor)}
            encoded = Encoded(inputs, prompt_tokens=inputs["input_ids"].shape[1])
        except VQAError:
            raise
        except UnicodeEncodeError:
            raise InvalidJob("the text holds half of a surrogate pair, which is no character") from None
        except TemplateError:
            raise InvalidJob("the model's chat template refuses this chat: the order of its roles, or a role") from None
        except (ValueError, TypeError) as error:
            # deterministic: a picture in a turn that shows none, for example
            raise InvalidJob(f"the model's processor refuses this chat ({type(error).__name__})") from None
        except Exception as error:
            # processors raise of many kinds, and their words may hold the user's
            raise EngineError(f"the model's processor failed on this prompt ({type(error).__name__})") from None
        self._check_fits("", encoded.prompt_tokens, prompt.max_new_tokens)
        return encoded

    def together(self, prompts: Sequence[Encoded]) -> dict[str, Tensor]:
        """The tensors of prompts of one kind as one microbatch: text padded on the left, all else strung together."""
        longest = max(prompt.prompt_tokens for prompt in prompts)
        return {name: torch.cat([self._row(prompt, name, longest) for prompt in prompts]) for name in prompts[0].inputs}

    def _row(self, prompt: Encoded, name: str, longest: int) -> Tensor:
        tensor = prompt.inputs[name]
        if not prompt.is_text(tensor):
            return tensor
        fill = self._pad_id if name == "input_ids" else 0
        return torch.nn.functional.pad(tensor, (longest - prompt.prompt_tokens, 0), value=fill)

    def _check_fits(self, about: str, prompt_tokens: int, max_new_tokens: int) -> None:
        if prompt_tokens + max_new_tokens > self._slot_tokens:
            raise PromptTooLong(
                f"{about}{prompt_tokens} tokens of prompt and max_new_tokens={max_new_tokens} are more than the "
                f"{self._slot_tokens} tokens of a slot (VQA_SLOT_TOKENS)"
            )

    def _message(self, turn: Turn) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for part in turn.parts:
            if not isinstance(part, str):
                content.append({"type": "image", "image": part})
            elif content and content[-1]["type"] == "text":
                # joined before it is made plain: a token could be split over two parts
                content[-1]["text"] += part
            else:
                content.append({"type": "text", "text": part})
        for entry in content:
            if entry["type"] == "text":
                entry["text"] = self._control.plain(entry["text"])
        return {"role": turn.role, "content": content}
