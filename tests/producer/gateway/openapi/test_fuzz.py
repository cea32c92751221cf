"""Requests drawn from the OpenAPI document: none fails by our mistake, and each answer is one that it declares.

They are the same in each run, apart from the ids that the gateway gives; `make fuzz` draws others.
"""

from pathlib import Path

import pytest

from tests.producer.gateway.openapi.fuzz import fuzz


# 40 s on two free cores
@pytest.mark.timeout(400)
def test_the_gateway_answers_as_its_document_says(tmp_path: Path) -> None:
    fuzzed = fuzz(tmp_path, "--generation-deterministic", "--max-examples", "32")
    assert fuzzed.is_fine, f"{fuzzed.output}\n{fuzzed.gateway_log}"
    assert fuzzed.cases >= 2000
