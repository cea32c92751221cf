"""The protocol between the task and an engine: a prompt goes in, a future of a completion comes out.

Independent of the queue: no Celery, no Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from vqa.answer import FinishReason
from vqa.errors import EngineError
from vqa.images.fit import Fit
from vqa.images.video_fit import VideoFit
from vqa.jobs.lane import Lane
from workers.engine.image import RGBImage
from workers.engine.video import Video


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the chat: texts, decoded images and videos in order."""

    role: str
    parts: tuple[str | RGBImage | Video, ...]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to generate an answer."""

    max_new_tokens: int
    #: 0 is greedy
    temperature: float = 0.0
    #: nucleus sampling: draw from the likeliest tokens that together have at least this probability
    top_p: float = 1.0
    #: the same prompt and seed give the same answer. On a card, the prompts computed with it may change how sums are
    #: rounded and so, rarely, the answer
    seed: int | None = None
    stop: tuple[str, ...] = ()
    #: the grammar of `vqa.structured_output.grammar` that the answer must match; None allows any text
    grammar: str | None = None
    #: draw from this many likeliest tokens; 0 for all
    top_k: int = 0
    #: draw from tokens with at least this share of the likeliest one's probability
    min_p: float = 0.0
    #: subtracted from the logits of tokens that the answer has already, once and for each time (OpenAI's)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    #: divides positive logits and multiplies negative ones of tokens that are in prompt or answer (Keskar et al.,
    #: 2019); None for the checkpoint's own, which usually is 1
    repetition_penalty: float | None = None
    #: whether to report the log probability of each token of the answer, and of how many of the likeliest beside it
    logprobs: bool = False
    top_logprobs: int = 0
    #: how many answers to generate
    n: int = 1
    #: score these texts in place of generating one; see `Completion.choices`
    choices: tuple[str, ...] = ()
    #: most tokens of a thought, after which it is ended; None for the engine's own. Not counted in `max_new_tokens`
    max_reasoning_tokens: int | None = None
    #: the answer is this text, however unlikely, and its tokens are those that the tokenizer makes of it; to score it
    forced: str | None = None

    @property
    def takes_likeliest(self) -> bool:
        """Whether each token is the likeliest of those that a grammar allows, and nothing else is asked about it."""
        penalty = self.presence_penalty or self.frequency_penalty or self.repetition_penalty not in {None, 1.0}
        return not (self.temperature > 0 or penalty or self.logprobs)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A job as an engine takes it: the chat with decoded images, and how to answer it."""

    id: str
    turns: tuple[Turn, ...]
    params: SamplingParams
    lane: Lane = "interactive"
    #: in seconds on the clock of `time.monotonic()`
    deadline: float = float("inf")
    #: from 1; the echo engine uses it and the metadata to fail as a test asks
    attempt: int = 1
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: run with no other prompt in a slot, in prefill or in a microbatch: this job has lost workers before, and must not
    #: take other jobs with it if it loses this one
    alone: bool = False
    #: prompts reuse each other's prefixes in the KV cache only if these are equal
    cache_salt: str = ""
    #: called from the engine's thread with each piece of the answer as soon as it is final; the pieces joined are the
    #: answer's text. It must return quickly; an exception fails this prompt alone.
    on_text: Callable[[str], None] | None = None

    @property
    def images(self) -> list[RGBImage]:
        """All images, in order; without the frames of videos."""
        return [part for turn in self.turns for part in turn.parts if isinstance(part, RGBImage)]

    @property
    def videos(self) -> list[Video]:
        """All videos, in order."""
        return [part for turn in self.turns for part in turn.parts if isinstance(part, Video)]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer and the natural logarithm of its probability, before temperature and other sampling.

    The logarithm is minus infinity for a token that the checkpoint suppresses, and not a number if the logits are not.
    """

    token: int
    #: what the token adds to the text; bytes, as a character may be spread over tokens
    text: bytes
    logprob: float
    #: the likeliest tokens at its place, the likeliest first
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """The engine's answer to a prompt."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    #: what the model thought before the text
    reasoning: str | None = None
    #: width and height at which the model saw each image, in order; None where it is cut into tiles
    image_sizes: tuple[tuple[int, int] | None, ...] = ()
    #: tokens of each image in the prompt, in order; None where they are not known, and none where `Engine.fit` says it
    image_tokens: tuple[int | None, ...] = ()
    #: of the prompt, those that were in the KV cache already
    cached_tokens: int = 0
    #: of the text's tokens, if asked for
    logprobs: tuple[TokenLogprob, ...] = ()
    #: sum of the log probabilities of all tokens, with the one that ends the text; None if they were not asked for
    total_logprob: float | None = None
    #: the other answers where `n` is more than 1
    alternatives: tuple[Completion, ...] = ()
    #: the probability of each of `SamplingParams.choices`, which sum to 1
    choices: Mapping[str, float] | None = None
    #: of `completion_tokens`, those of the thought, with those that end it
    reasoning_tokens: int = 0
    #: seconds from `submit` until the prompt got a slot, from then to the first token, and from there to the last one;
    #: 0 where an engine does not know. The same answer may take longer
    slot_wait_s: float = field(default=0.0, compare=False)
    prefill_s: float = field(default=0.0, compare=False)
    decode_s: float = field(default=0.0, compare=False)


class EngineUnavailable(EngineError):
    """The engine can answer nothing for now, through no fault of the job, whose attempt does not count."""


class LoadingCrashed(EngineError):
    """The engine's process was killed while it loaded the model: by lack of memory, say. It may load the next time."""


#: what a thread is doing: a computing one, or the one that consumes messages
Phase = Literal["load", "prefill", "decode", "consume"]


@dataclass(frozen=True, slots=True)
class Stall:
    """A computing thread whose last heartbeat is older than its phase allows."""

    phase: Phase
    #: seconds since the last heartbeat
    silent_s: float
    #: the prompts in slots or in prefill: one of them may be the cause
    ids: tuple[str, ...]
    #: seconds that this phase may go without a heartbeat
    limit_s: float = 0.0


#: called with the exception that ended an engine's loop, and the ids of the prompts that were being computed
OnCrash = Callable[[BaseException, Collection[str]], None]


class Engine(Protocol):
    """One loaded model and the threads that own it."""

    #: the model's name in answers
    model: str
    #: the size to which images must be scaled before `submit`, at most; None if the model's own image processor scales
    #: them. Set by `start`
    fit: Fit | None
    #: how the frames of videos must be scaled before `submit`; None if the model takes no videos. Set by `start`
    video_fit: VideoFit | None

    def start(self, on_crash: OnCrash) -> None:
        """Load and warm up; return when prompts can be answered. Raises NotReady, or LoadingCrashed.

        If an engine's thread crashes, it calls `on_crash` once, and then fails every pending prompt with EngineError.
        A crashed engine cannot be used again.
        """

    def stall(self) -> Stall | None:
        """Return the computing thread that is silent for too long, if there is one. Thread-safe."""

    def submit(self, prompt: Prompt) -> Future[Completion]:
        """Queue a prompt. The future fails with a VQAError: DeadlineExceeded if the deadline passes first."""

    def cancel(self, id: str) -> None:
        """Fail the prompt's future with Cancelled and stop computing it at the next step. Ignore unknown ids."""

    def stop(self) -> None:
        """Stop answering; pending prompts fail with EngineError."""


@runtime_checkable
class HasPlaces(Protocol):
    """An engine that takes more or fewer prompts from one moment to the next."""

    @property
    def places(self) -> int:
        """How many prompts it computes at once now; 0 while it can compute none. Thread-safe."""
