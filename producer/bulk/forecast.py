"""What a run tells of its end beforehand: the number of its rows, and that it will not make its limit."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from producer.bulk.batch import BatchReporter, BulkClient
from producer.bulk.plan import Plan
from producer.inputs import RowCount
from producer.prediction import Prediction
from producer.prediction.words import ends, lateness
from vqa.errors import QueueUnavailable, UnknownBatch

#: seconds between two predictions
_PREDICT_INTERVAL_S = 10.0


class Forecast:
    """Counts the rows while they are sent, and warns once if --within is too short at the rate of the last minutes."""

    def __init__(self, plan: Plan, batch: str, client: BulkClient, reporter: BatchReporter) -> None:
        self._plan = plan
        self._batch = batch
        self._client = client
        self._reporter = reporter
        self._count = RowCount(plan.source)
        self._said = plan.within_s is None or plan.quiet
        self._predicted = 0.0
        #: rows of the whole input; None until they are counted
        self.rows: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._count.stop()

    def start(self) -> None:
        """Begin to count. The batch has been created."""
        self._count.start()

    def tick(self) -> None:
        """Report the number of rows once they are counted; predict the end if the last prediction is old enough."""
        if self.rows is None and self._count.rows is not None:
            self.rows = self._count.rows
            self._reporter.expect(self.rows)
            # the warning comes at once
            self._predicted = 0.0
        if not self._said and time.monotonic() - self._predicted >= _PREDICT_INTERVAL_S:
            self._predicted = time.monotonic()
            if (prediction := self._predict()) is not None and prediction.is_late:
                self._say(lateness(prediction))

    def tell(self) -> None:
        """Warn, or say why it is not known whether the limit is met; all rows are on the queue."""
        if self._said or (prediction := self._predict()) is None:
            return
        if prediction.is_late:
            self._say(lateness(prediction))
        elif prediction.unknown is not None:
            self._say(f"{ends(prediction)}; `vqa status {self._batch}` tells it later")

    def _predict(self) -> Prediction | None:
        with suppress(QueueUnavailable, UnknownBatch):
            return self._client.batches.retrieve(self._batch).prediction()
        return None

    def _say(self, text: str) -> None:
        self._said = True
        print(f"vqa: {text}", file=sys.stderr)
