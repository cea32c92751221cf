"""A model's name that leads nowhere is said at once; sizes are tested with the slots that they give."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.worker_process import ROOT

READ = """
import sys
from vqa.errors import NotReady
from workers.engine.model.footprint import read_config
from workers.engine.settings import EngineSettings

try:
    read_config(EngineSettings(model=sys.argv[1]))
except NotReady as error:
    print(error)
"""


@pytest.mark.parametrize("model", ["tiny-vll", "Qwen/Qwen3-VL-3B-Instruct"])
@pytest.mark.parametrize(
    ("variables", "ways"),
    [
        (
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            ("http://127.0.0.1:9", "HF_ENDPOINT", "HF_HUB_OFFLINE=1", "VQA_HUB=modelscope", "local folder"),
        ),
        ({"HF_ENDPOINT": "http://no-such-host.invalid"}, ("HF_ENDPOINT", "HF_HUB_OFFLINE=1", "local folder")),
        ({"HF_HUB_OFFLINE": "1"}, ("HF_HUB_OFFLINE is set", "HF_HOME", "local folder")),
    ],
    ids=["refused", "no such host", "offline"],
)
def test_a_hub_that_does_not_answer_is_told_at_once_in_one_line(
    model: str, variables: dict[str, str], ways: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ, model],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith(f"{model} (VQA_MODEL) is no folder on this machine, ")
    assert done.stdout.count("\n") == 1
    assert [way for way in ways if way not in done.stdout] == []
    # its client would wait for 24 s between its tries
    assert "Retrying" not in done.stderr
