"""The notice that an answer is made by a machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vqa.answer import Answer
from vqa.jobs.job import Job
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
        update: dict[str, Any] = {"label": self.text}
        if job.grammar is None:
            update["text"] = self._with_notice(outcome.text)
            update["alternatives"] = tuple(
                each.model_copy(update={"text": self._with_notice(each.text)}) for each in outcome.alternatives
            )
        return outcome.model_copy(update=update)

    def _with_notice(self, text: str) -> str:
        return f"{text}\n\n{self.text}" if text else text
