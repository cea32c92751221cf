"""Which engine a worker takes where the model alone does not decide it, and that it says so."""

import json
from pathlib import Path

import pytest
from PIL import Image

from producer import Client
from tests.worker_process import TINY, StartWorker
from vqa.answer import SeenImage
from workers.supervisor.link import EXIT_NEVER_READY

WAIT_S = 100.0


@pytest.mark.timeout(180)
def test_a_worker_of_several_replicas_takes_the_pipeline_and_says_why(
    start_worker: StartWorker, client: Client
) -> None:
    worker = start_worker(VQA_MODEL=str(TINY), VQA_ENGINE="auto", VQA_REPLICAS="2", VQA_SLOTS="4")

    answer = client.ask(Image.new("RGB", (1000, 500), "red"), "what colour is the background?", timeout_s=WAIT_S)
    assert "pipeline engine (VQA_REPLICAS=2, " in worker.log.read_text()
    assert answer.text
    # of 65,536 pixels
    assert answer.images == (SeenImage(width=352, height=160, source_width=1000, source_height=500, tokens=55),)


@pytest.mark.timeout(180)
def test_an_engine_that_does_not_know_the_model_is_never_ready_and_tells_the_way_out(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlavaForConditionalGeneration"]}))

    worker = start_worker(ready=False, VQA_MODEL=str(tmp_path), VQA_ENGINE="continuous", VQA_SLOTS="4")

    assert worker.process.wait(WAIT_S) == EXIT_NEVER_READY
    log = worker.log.read_text()
    assert "NotReady: VQA_ENGINE=continuous: the model is a LlavaForConditionalGeneration" in log
    assert "VQA_ENGINE=pipeline runs it" in log
    assert "Traceback" not in log
