"""Which engine a worker takes, and that it says so."""

import json
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from producer import Client
from tests.worker_process import TINY, StartWorker
from vqa import Answer, Job
from vqa.answer import SeenImage
from workers.supervisor.link import EXIT_NEVER_READY

WAIT_S = 100.0


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"VQA_ENGINE": "auto"}, "continuous engine (the model's architecture is supported), "),
        ({"VQA_ENGINE": "auto", "VQA_REPLICAS": "2"}, "pipeline engine (VQA_REPLICAS=2, "),
        ({"VQA_ENGINE": "pipeline"}, "pipeline engine (VQA_ENGINE says so), "),
    ],
)
def test_a_worker_says_which_engine_it_takes_and_why(
    start_worker: StartWorker, client: Client, given: dict[str, str], said: str
) -> None:
    worker = start_worker(VQA_MODEL=str(TINY), VQA_SLOTS="4", **given)

    answer = client.ask(Image.new("RGB", (1000, 500), "red"), "what colour is the background?", timeout_s=WAIT_S)
    log = worker.log.read_text()
    assert said in log
    assert "images are seen at up to 64 tokens (VQA_MAX_IMAGE_TOKENS), with detail low 64, high 64 " in log
    assert "the model's own limits are 4 to 64 tokens of 32 x 32 pixels, its filter is bicubic" in log
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


@pytest.mark.timeout(180)
def test_the_strangest_jobs_that_are_allowed_leave_the_continuous_engine_whole(
    start_worker: StartWorker, client: Client
) -> None:
    worker = start_worker(VQA_MODEL=str(TINY), VQA_ENGINE="continuous", VQA_SLOTS="4")
    noise = Image.frombytes("RGB", (300, 200), Random(0).randbytes(300 * 200 * 3))
    jobs = [
        # 0 in float32
        Job.about(noise, "what?", temperature=1, top_p=1e-60, max_new_tokens=8),
        Job.about(noise, "what?", temperature=0.01, top_p=1, seed=2**63 - 1, max_new_tokens=8),
        Job.about(noise, "what?", temperature=2, top_p=1, seed=0, max_new_tokens=1),
        # as narrow as models take
        Job.about(noise.resize((4000, 20)), "what?", max_new_tokens=8),
        Job.about(noise.resize((1, 1)), "what?", max_new_tokens=8),
        Job.about(noise, "?", max_new_tokens=8),
        Job.about(noise, "what? " * 700, max_new_tokens=8),
    ]

    outcomes = dict(client.answers(client.submit_many(jobs), timeout_s=WAIT_S))

    assert [type(outcomes[job.id]) for job in jobs] == [Answer] * len(jobs), outcomes
    assert worker.process.poll() is None
