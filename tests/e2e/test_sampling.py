"""How tokens are chosen where jobs do not say it, through Redis and a worker with the bundled model."""

import json
import shutil
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from producer import Client
from tests.worker_process import TINY, StartWorker
from vqa import Answer, Job

WAIT_S = 100.0

#: of what it was trained on it is too sure for another answer
NOISE = Image.frombytes("RGB", (160, 160), Random(0).randbytes(160 * 160 * 3))

pytestmark = pytest.mark.timeout(240)


def ask(client: Client, **fields: object) -> Answer:
    job = Job.about(NOISE, "what is the color of the cross?", **{"max_new_tokens": 16, **fields})
    return client.answer(client.submit(job), timeout_s=WAIT_S)


def test_a_checkpoints_advice_is_for_jobs_that_do_not_say_how(
    client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    model = shutil.copytree(TINY, tmp_path / "model")
    config = model / "generation_config.json"
    fields = json.loads(config.read_text()) if config.exists() else {}
    config.write_text(json.dumps({**fields, "do_sample": True, "temperature": 2.0, "top_k": 50}))
    worker = start_worker(VQA_ENGINE="continuous", VQA_SAMPLING_DEFAULTS="checkpoint", VQA_MODEL=str(model))

    greedy = {ask(client, temperature=0).text for _ in range(4)}
    # an answer that may be reused is greedy, too
    greedy |= {ask(client, reuse=True, seed=seed).text for seed in range(2)}

    assert len(greedy) == 1
    assert len({ask(client, seed=seed).text for seed in range(8)}) > 2
    said = "jobs that do not say how tokens are chosen are answered with temperature 2.0, top_p 1.0, top_k 50"
    assert said in worker.log.read_text()
