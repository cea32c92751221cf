"""The parts of OpenAI's chat completions, whole and in chunks, that an answer is made from."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from workers.engine.base import TokenLogprob
from workers.engine.remote.failures import Broken

#: in place of a token's number, which servers do not tell
_UNKNOWN = -1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Token(_Part):
    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    top_logprobs: tuple[Token, ...] | None = None

    def logprob_of(self) -> TokenLogprob:
        """Return it as engines do. Raises Broken."""
        try:
            text = self.token.encode(errors="replace") if self.bytes is None else bytes(self.bytes)
        except ValueError:
            raise Broken("a log probability cannot be read") from None
        top = tuple(each.logprob_of() for each in self.top_logprobs or ())
        return TokenLogprob(_UNKNOWN, text, self.logprob, top)


class Logprobs(_Part):
    content: tuple[Token, ...] | None = None


class Delta(_Part):
    content: str | None = None
    #: DeepSeek's, SGLang's and earlier vLLM's name, and vLLM's
    reasoning_content: str | None = None
    reasoning: str | None = None


class Choice(_Part):
    index: int = 0
    delta: Delta | None = None
    #: of a completion that was not streamed
    message: Delta | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class _PromptDetails(_Part):
    cached_tokens: int | None = None


class _CompletionDetails(_Part):
    reasoning_tokens: int | None = None


class Usage(_Part):
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Extra(_Part):
    """Of this project's gateway."""

    reasoning: str | None = None


class Chunk(_Part):
    choices: tuple[Choice, ...] | None = None
    usage: Usage | None = None
    error: Any = None
    object: str | None = None
    vqa: _Extra | None = None

    @classmethod
    def parse(cls, data: bytes) -> Chunk:
        """Raises Broken."""
        try:
            return cls.model_validate_json(data)
        except ValidationError:
            raise Broken("the server sent something else than a chat completion") from None
