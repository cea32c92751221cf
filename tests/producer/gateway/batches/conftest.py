"""The official client, and what tests of batches wait for."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from openai import OpenAI
from openai.types import Batch

from tests.producer.gateway.gateway_process import GatewayProcess

OVER = ("completed", "failed", "expired", "cancelled")


class BatchClient:
    """Makes batches through a gateway, and reads them."""

    def __init__(self, url: str, key: str = "none") -> None:
        self.openai = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

    def create(self, data: bytes, **fields: Any) -> Batch:
        """Upload lines and make a batch of them."""
        file = self.openai.files.create(file=("rows.jsonl", data), purpose="batch")
        options: dict[str, Any] = {"endpoint": "/v1/chat/completions", "completion_window": "24h"} | fields
        return self.openai.batches.create(input_file_id=file.id, **options)

    def until(self, batch: Batch, condition: Callable[[Batch], bool], timeout_s: float = 30) -> Batch:
        until = time.monotonic() + timeout_s
        while not condition(batch := self.openai.batches.retrieve(batch.id)):
            assert time.monotonic() < until, batch
            time.sleep(0.05)
        return batch

    def ended(self, batch: Batch, timeout_s: float = 30) -> Batch:
        return self.until(batch, lambda batch: batch.status in OVER, timeout_s)

    def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        assert file_id is not None
        return [json.loads(line) for line in self.openai.files.content(file_id).read().splitlines()]


def counts(batch: Batch) -> tuple[int, int, int]:
    """Return how many rows there are, are answered and have failed."""
    found = batch.request_counts
    assert found is not None
    return found.total, found.completed, found.failed


@pytest.fixture(scope="module")
def batches(gateway: GatewayProcess) -> BatchClient:
    """A client of the shared gateway."""
    return BatchClient(gateway.url)
