"""The word filter around a job: what of its question is refused, and of its answer masked, flagged or refused."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from typing import Any

from vqa.answer import Alternative, Answer
from vqa.errors import QuestionRefused
from vqa.jobs.job import Job
from vqa.jobs.message import Message, TextPart
from vqa.ledger.records import Lease
from vqa.results import Outcome
from workers.filter.lists import Lists
from workers.filter.stream import StreamFilter
from workers.filter.structured import filter_structured
from workers.filter.word_filter import Filtered, WordFilter
from workers.jobs.filtered_logprobs import filter_logprobs
from workers.jobs.text_buffer import OnShow

#: categories that the worker's entry in the list of workers counts; more would make each renewal of leases larger
_MOST_COUNTED = 50


class AnswerFilter:
    """Middleware that filters each answer, a reused one included if it is outside of the answer cache."""

    def __init__(self, lists: Lists | None, questions: bool) -> None:
        """`questions` says whether questions are filtered, too. Without `lists`, nothing is."""
        self._lists = lists
        self._questions = questions
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        #: `words`: the filter of the job that the thread answers, the same from its question to its answer
        self._thread = threading.local()

    def before(self, job: Job, lease: Lease) -> Answer | None:
        """Raises QuestionRefused."""
        if self._lists is None:
            return None
        words = self._thread.words = self._lists.current()
        if self._questions:
            found = self._of_question(words, job)
            # a masked question would be another one, so nobody is asked it
            if refused := [category for category in found if words.actions.of(category) != "flag"]:
                self._count(found)
                raise QuestionRefused(
                    f"the question has words of a category that is not answered: {', '.join(refused)}"
                )
        return None

    def after(self, job: Job, lease: Lease, outcome: Outcome) -> Outcome:
        if self._lists is None or not isinstance(outcome, Answer):
            return outcome
        words: WordFilter = self._thread.words
        asked = self._of_question(words, job) if self._questions else ()
        found, update = _filter(words, job, outcome, lease.header.stream)
        others = [_filter(words, job, each) for each in outcome.alternatives]
        categories = tuple(sorted({*asked, *found, *chain.from_iterable(own for own, _ in others)}))
        if not categories and outcome.logprobs is None and not others:
            return outcome
        self._count(categories)
        alternatives = tuple(
            each.model_copy(update=own) for each, (_, own) in zip(outcome.alternatives, others, strict=True)
        )
        if update.get("finish_reason") == "content_filter":
            # the likeliest choice is the text
            update["choices"] = None
        return outcome.model_copy(update={**update, "filtered": categories, "alternatives": alternatives})

    def shown(self, job: Job) -> OnShow | None:
        """Return what filters the job's text while it is generated; called by the thread that answers the job.

        Nothing of a structured answer is shown before its end: a part of it cannot be told from what is refused.
        """
        if self._lists is None:
            return None
        return StreamFilter(self._thread.words).push if job.grammar is None else lambda piece: ""

    def figures(self) -> dict[str, Any]:
        """Return how many answers and refused questions had words of each category, for the list of workers."""
        with self._lock:
            return {"filtered": dict(self._counts.most_common(_MOST_COUNTED))} if self._counts else {}

    def _count(self, categories: Iterable[str]) -> None:
        with self._lock:
            self._counts.update(categories)

    def _of_question(self, words: WordFilter, job: Job) -> tuple[str, ...]:
        found = (words.apply(text).categories for message in job.messages for text in _texts(message))
        return tuple(sorted(set(chain.from_iterable(found))))


def _texts(message: Message) -> Iterator[str]:
    """Yield the texts of a message; parts without an image between them are one, as for the model."""
    for is_text, parts in groupby(message.content, lambda part: isinstance(part, TextPart)):
        if is_text:
            yield "".join(part.text for part in parts if isinstance(part, TextPart))


def _filter(
    words: WordFilter, job: Job, answer: Answer | Alternative, streamed: bool = False
) -> tuple[set[str], dict[str, Any]]:
    """Return the categories of an answer's words, and its fields that are to be changed."""
    text, thought = _filtered(words, job, answer.text), words.apply(answer.reasoning or "")
    categories = {*text.categories, *thought.categories}
    if text.refused_at is not None:
        # who reads the text as it is generated has seen some of what comes before the word
        shown = text.text[: text.refused_at] if streamed else ""
        refused = {"text": shown, "reasoning": None, "parsed": None, "logprobs": None}
        return categories, {**refused, "finish_reason": "content_filter"}
    # a thought that is refused is left out
    reasoning = None if thought.refused_at is not None else thought.text or None
    update: dict[str, Any] = {"text": text.text, "reasoning": reasoning}
    if text.text != answer.text:
        # the tokens' texts tell the words that are masked
        update |= {"parsed": job.parse(text.text), "logprobs": None}
    elif answer.logprobs is not None:
        update["logprobs"] = filter_logprobs(words, answer.logprobs, text.text)
    return categories, update


def _filtered(words: WordFilter, job: Job, text: str) -> Filtered:
    structure = job.response_format
    return words.apply(text) if structure is None else filter_structured(words, structure, text)
