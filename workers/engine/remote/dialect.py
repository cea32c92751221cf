"""In what servers of OpenAI's API differ, as far as requests depend on it."""

from __future__ import annotations

from dataclasses import dataclass

#: `owned_by` in the list of models
_VLLM, _SGLANG, _VQA = "vllm", "sglang", "vqa"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a kind of server expects."""

    #: as the server names itself in its list of models
    owner: str = ""

    @property
    def all_tokens(self) -> int:
        """The `top_k` that means every token."""
        return -1 if self.owner == _SGLANG else 0

    @property
    def has_cache_salt(self) -> bool:
        """Whether requests can be kept from sharing prefixes in the server's cache."""
        return self.owner == _VLLM

    @property
    def streams_all(self) -> bool:
        """Whether a stream can have log probabilities and several answers."""
        return self.owner != _VQA

    @property
    def bounds_reasoning(self) -> bool:
        """Whether `max_tokens` leaves out the thought, which `max_reasoning_tokens` bounds."""
        return self.owner == _VQA
