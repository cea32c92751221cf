"""How tokens are chosen, and how likely they were, through Redis and a worker with the bundled model."""

import json
import math
import shutil
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from producer import Client
from tests.worker_process import TINY, StartWorker
from vqa import Answer, InvalidJob, Job

WAIT_S = 100.0
MODEL = {"VQA_MODEL": str(TINY), "VQA_SLOTS": "8"}

#: of what it was trained on it is too sure for another answer
NOISE = Image.frombytes("RGB", (160, 160), Random(0).randbytes(160 * 160 * 3))

pytestmark = pytest.mark.timeout(240)


def ask(client: Client, **fields: object) -> Answer:
    job = Job.about(NOISE, "what is the color of the cross?", **{"max_new_tokens": 16, **fields})
    return client.answer(client.submit(job), timeout_s=WAIT_S)


@pytest.mark.parametrize("engine", ["continuous", "pipeline"])
def test_an_answer_tells_how_likely_its_tokens_were(client: Client, start_worker: StartWorker, engine: str) -> None:
    start_worker(VQA_ENGINE=engine, **MODEL)

    plain, told = ask(client), ask(client, logprobs=True, top_logprobs=3)

    assert plain.logprobs is None
    assert told.text == plain.text
    assert told.logprobs is not None
    assert b"".join(bytes(each.bytes) for each in told.logprobs).decode() == told.text
    for each in told.logprobs:
        # greedy: the likeliest of the three
        assert (each.token, each.logprob) == (each.top_logprobs[0].token, each.top_logprobs[0].logprob)
        assert len(each.top_logprobs) == 3
        assert 0 < sum(math.exp(other.logprob) for other in each.top_logprobs) <= 1 + 1e-5
    assert ask(client, frequency_penalty=2.0, repetition_penalty=10.0, max_new_tokens=32).text != plain.text
    assert ask(client, temperature=2.0, top_k=1).text == plain.text
    with pytest.raises(InvalidJob, match="may be 32,768"):
        ask(client, logprobs=True, top_logprobs=20, max_new_tokens=4096)


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
