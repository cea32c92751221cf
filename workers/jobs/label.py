"""The notice that an answer is made by a machine."""

from __future__ import annotations

from dataclasses import dataclass

from vqa.answer import Answer
from vqa.job import Job
from vqa.ledger.records import Lease
from vqa.results import Outcome


@dataclass(frozen=True)
class Label:
    """Middleware that ends each answer's text with a notice, as its last paragraph, and sets `Answer.label`.

    A structured answer's text stays as it is, or it would not parse; so does an empty one.
    """

    #: None for no notice
    text: str | None

    def before(self, job: Job, lease: Lease) -> Answer | None:
        return None

    def after(self, job: Job, lease: Lease, outcome: Outcome) -> Outcome:
        if self.text is None or not isinstance(outcome, Answer):
            return outcome
        appended = {"text": f"{outcome.text}\n\n{self.text}"} if outcome.text and job.grammar is None else {}
        return outcome.model_copy(update={"label": self.text, **appended})
