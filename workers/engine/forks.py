"""Prompts that take several answers: `n` samples, or a score for each choice. Each is a child prompt of one answer.

A choice c is scored by log P(c): the log probabilities of its tokens and of the end of text after them, summed. The
tokens are those that the tokenizer makes of c, and the model's distribution is the one before temperature, penalties
and masks. So exp(log P(c)) over the sum for all choices is exactly the probability that the answer is c, given that it
is one of the choices in the tokenizer's own spelling. What choices have in common at their beginning is computed for
each; the prompt is computed once where the engine has a prefix cache.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

from vqa.errors import Cancelled, EngineError, VQAError
from workers.engine.base import Completion, Prompt, SamplingParams, TokenLogprob
from workers.engine.runtime.pending import Pending
from workers.engine.text.text_stream import TextStream

#: children of a prompt that run at the same time: a job with a thousand choices must leave slots to others
MOST_AT_ONCE = 16

#: seeds of children stay in the range of a job's
_SEEDS = 2**63


def is_forked(params: SamplingParams) -> bool:
    """Whether a prompt with these parameters takes several answers."""
    return params.n > 1 or bool(params.choices)


@dataclass(slots=True, eq=False)
class _Children:
    """The child prompts of one prompt that have not ended.

    Does not reference the prompt, whose future calls `cancel`: the cycle would keep its images until a garbage
    collection.
    """

    waiting: deque[tuple[int, Prompt]]
    lock: threading.Lock = field(default_factory=threading.Lock)
    running: dict[int, Pending] = field(default_factory=dict)

    def cancel(self, _: Future[Completion]) -> None:
        """Start no more, and end those that run."""
        with self.lock:
            self.waiting.clear()
            running, self.running = self.running, {}
        for pending in running.values():
            pending.fail(Cancelled("the prompt that it belongs to has ended"))


class Fork:
    """Runs the children of a prompt, and settles the prompt when all have ended or one has failed.

    Children are started by the threads that end earlier ones.
    """

    def __init__(self, parent: Pending, submit: Callable[[Prompt], Pending]) -> None:
        """`submit` accepts a child; it must not settle it with an answer before it returns."""
        self._parent = parent
        self._submit = submit
        self._children = _Children(deque(enumerate(_children(parent.prompt))))
        self._count = len(self._children.waiting)
        self._completions: dict[int, Completion] = {}
        #: score and text of the likeliest choice so far, and the log probabilities of its tokens
        self._best: tuple[float, str] | None = None
        self._logprobs: tuple[TokenLogprob, ...] = ()

    def start(self) -> None:
        self._parent.future.add_done_callback(self._children.cancel)
        for _ in range(1 if self._parent.prompt.alone else MOST_AT_ONCE):
            self._start_next()

    def _start_next(self) -> None:
        children = self._children
        with children.lock:
            if not children.waiting:
                return
            number, prompt = children.waiting.popleft()
        pending = self._submit(prompt)
        with children.lock:
            children.running[number] = pending
        pending.future.add_done_callback(partial(self._collect, number))
        if self._parent.settled:
            # it may have been settled before the child was among those that `cancel` ends
            pending.fail(Cancelled("the prompt that it belongs to has ended"))

    def _collect(self, number: int, ended: Future[Completion]) -> None:
        with self._children.lock:
            self._children.running.pop(number, None)
        error = ended.exception()
        if isinstance(error, VQAError):
            self._parent.fail(error)
            return
        if self._keep(number, ended.result()):
            self._settle([self._completions[each] for each in range(self._count)])
        else:
            self._start_next()

    def _keep(self, number: int, made: Completion) -> bool:
        """Keep the completion of a child; return whether it is the last one.

        The log probabilities of all choices may be a million, so only those of the likeliest one are kept.
        """
        choices = self._parent.prompt.params.choices
        with self._children.lock:
            if choices:
                rank = _score(made), choices[number]
                if self._best is None or rank > self._best:
                    self._best, self._logprobs = rank, made.logprobs
                made = replace(made, logprobs=())
            self._completions[number] = made
            return len(self._completions) == self._count

    def _settle(self, completions: Sequence[Completion]) -> None:
        params = self._parent.prompt.params
        if not params.choices:
            self._parent.answer(self._timed(_with_alternatives(completions)))
            return
        try:
            chosen = _choose(params, completions, self._logprobs)
        except EngineError as error:
            self._parent.fail(error)
            return
        if self._parent.prompt.on_text:
            TextStream(self._parent).write(chosen.text)
        self._parent.answer(self._timed(chosen))

    def _timed(self, made: Completion) -> Completion:
        """Return the completion with what came after the first child's prefill as time of decoding."""
        before = made.slot_wait_s + made.prefill_s
        return replace(made, decode_s=max(0.0, time.monotonic() - self._parent.since - before))


def _children(prompt: Prompt) -> Iterator[Prompt]:
    params = prompt.params
    for choice in params.choices:
        top = params.top_logprobs if params.logprobs else 0
        own = SamplingParams(params.max_new_tokens, forced=choice, logprobs=True, top_logprobs=top)
        yield replace(prompt, params=own, on_text=None)
    if not params.choices:
        for number in range(params.n):
            seed = None if params.seed is None else (params.seed + number) % _SEEDS
            # only the first answer is shown while it is generated
            on_text = None if number else prompt.on_text
            yield replace(prompt, params=replace(params, n=1, seed=seed), on_text=on_text)


def _with_alternatives(completions: Sequence[Completion]) -> Completion:
    first, *others = completions
    return replace(
        first,
        completion_tokens=sum(each.completion_tokens for each in completions),
        reasoning_tokens=sum(each.reasoning_tokens for each in completions),
        alternatives=tuple(others),
    )


def _score(made: Completion) -> float:
    return math.nan if made.total_logprob is None else made.total_logprob


def _choose(
    params: SamplingParams, completions: Sequence[Completion], logprobs: tuple[TokenLogprob, ...]
) -> Completion:
    """Return the completion of the likeliest choice, which has these log probabilities, with the probabilities of all.

    Raises EngineError.
    """
    scores = {choice: _score(each) for choice, each in zip(params.choices, completions, strict=True)}
    choices = probabilities(scores)
    # equal ones by their text, so that the order in which they are given does not matter
    likeliest = max(params.choices, key=lambda choice: (scores[choice], choice))
    chosen = completions[params.choices.index(likeliest)]
    return replace(
        chosen,
        text=likeliest,
        finish_reason="stop",
        completion_tokens=sum(each.completion_tokens for each in completions),
        reasoning_tokens=sum(each.reasoning_tokens for each in completions),
        cached_tokens=min(each.cached_tokens for each in completions),
        choices=choices,
        logprobs=logprobs if params.logprobs else (),
    )


def probabilities(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the softmax of the scores, which are natural logarithms. Raises EngineError if one is not a number."""
    best = max(scores.values())
    if any(math.isnan(score) for score in scores.values()) or math.isinf(best):
        raise EngineError("the model's logits give the choices no probability")
    weights = {choice: math.exp(score - best) for choice, score in scores.items()}
    total = math.fsum(weights.values())
    return {choice: weight / total for choice, weight in weights.items()}
