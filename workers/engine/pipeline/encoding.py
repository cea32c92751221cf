"""From prompts to a model's input tensors: each alone, so that a bad one fails alone, then some together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline
from transformers.utils.chat_template_utils import Chat

from workers.engine.base import Prompt
from workers.engine.text.chat import Chat as Messages
from workers.engine.text.chat import ChatEncoder
from workers.engine.text.grammar import Guide, Guides


@dataclass(frozen=True, slots=True, eq=False)
class ModelInputs:
    """One prompt as tensors with a leading dimension of 1 (or of its patches and images)."""

    tensors: Mapping[str, Tensor]
    prompt_tokens: int
    #: of a prompt with a grammar
    guide: Guide | None = None

    @property
    def kind(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What must be equal for prompts to run together: the tensors' names and all sizes but the leading ones."""
        return tuple((name, self._rest(tensor)) for name, tensor in sorted(self.tensors.items()))

    def is_text(self, tensor: Tensor) -> bool:
        """Whether `tensor` has one whole number a token, and so is padded rather than strung together."""
        return tensor.shape == (1, self.prompt_tokens) and not tensor.is_floating_point()

    def _rest(self, tensor: Tensor) -> tuple[int, ...]:
        return () if self.is_text(tensor) else tuple(tensor.shape[1:])


class Encoder(ChatEncoder[ModelInputs]):
    """A loaded pipeline's preprocessing. Belongs to one thread, as the pipeline's tokenizer does."""

    def __init__(self, pipe: ImageTextToTextPipeline, slot_tokens: int, guides: Guides | None = None) -> None:
        super().__init__(pipe.processor, slot_tokens, guides)
        # its methods have no types
        self._pipe: Any = pipe
        tokenizer: Any = pipe.tokenizer
        self._pad_id = next(id for id in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if id is not None)

    def process(self, chat: Messages, prompt: Prompt) -> ModelInputs:
        """See `ChatEncoder`."""
        made = self._pipe.preprocess(Chat(cast(Any, chat)))
        tensors = {name: value for name, value in made.items() if isinstance(value, Tensor)}
        return ModelInputs(tensors, prompt_tokens=tensors["input_ids"].shape[1], guide=self.guide(prompt))

    def count_tokens(self, made: ModelInputs) -> int:
        """See `ChatEncoder`."""
        return made.prompt_tokens

    def collate(self, prompts: Sequence[ModelInputs]) -> dict[str, Tensor]:
        """The tensors of prompts of one kind as one microbatch: text padded on the left, all else strung together."""
        longest = max(prompt.prompt_tokens for prompt in prompts)
        return {
            name: torch.cat([self._row(prompt, name, longest) for prompt in prompts]) for name in prompts[0].tensors
        }

    def _row(self, prompt: ModelInputs, name: str, longest: int) -> Tensor:
        tensor = prompt.tensors[name]
        if not prompt.is_text(tensor):
            return tensor
        fill = self._pad_id if name == "input_ids" else 0
        return torch.nn.functional.pad(tensor, (longest - prompt.prompt_tokens, 0), value=fill)
