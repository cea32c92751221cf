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
@pytest.mark.parametrize("variables", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_a_name_that_is_no_folder_is_not_looked_for_again_and_again(model: str, variables: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ, model],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith(f"{model} (VQA_MODEL) is no folder on this machine, and the hub cannot be reached (")
    # its client would wait for 24 s between its tries
    assert "Retrying" not in done.stderr
