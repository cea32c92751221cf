"""On a card: the supervisor, the slot plan, and running out of memory."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from producer import Answer, Client, Job
from tests.worker_process import ROOT, TINY
from tests.workers.engine.conftest import make_prompt
from training.questions import held_out
from vqa.settings import QueueSettings
from workers.cards import present_cards
from workers.engine.base import Turn
from workers.engine.image import RGBImage
from workers.engine.pipeline.engine import PipelineEngine
from workers.engine.settings import EngineSettings

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

WAIT_S = 120.0


def test_a_supervisor_finds_its_card_and_answers_as_well_as_the_cpu(
    queue_settings: QueueSettings, redis_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "supervisor.log"
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "workers", "--model", str(TINY)],
            cwd=ROOT,
            env=os.environ | {"VQA_REDIS_URL": redis_url},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    items = {f"q{number}": item for number, item in enumerate(held_out(300))}
    jobs = (Job.about(item.image, item.question, id=id, lane="bulk", max_new_tokens=16) for id, item in items.items())
    try:
        with Client(queue_settings) as client:
            outcomes = dict(client.answers(client.submit_many(jobs), timeout_s=WAIT_S))
    finally:
        supervisor.terminate()
        assert supervisor.wait(WAIT_S) == 0
    print(log.read_text())
    right = [isinstance(end := outcomes[id], Answer) and end.text.strip() == items[id].answer for id in items]
    assert sum(right) >= 0.95 * len(items)
    assert {end.worker.partition("@")[0] for end in outcomes.values() if isinstance(end, Answer)} == {
        f"card{present_cards()[0]}"
    }
    assert f"card {present_cards()[0]}: 256 slots; " in log.read_text()


def test_a_microbatch_that_does_not_fit_is_halved_until_it_does(caplog: pytest.LogCaptureFixture) -> None:
    import torch

    engine = PipelineEngine(EngineSettings(model=str(TINY), microbatch=16), slots=32, wait_s=0.5)
    engine.start(lambda error, ids: pytest.fail(f"the engine crashed: {error!r}"))
    items = list(held_out(16))

    def peak(count: int) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        ask(count)
        return int(torch.cuda.max_memory_reserved())

    def ask(count: int) -> list[str]:
        images = [RGBImage.from_pil(item.image.resize((256, 256))) for item in items[:count]]
        prompts = (
            make_prompt(f"{time.monotonic_ns()}-{n}", (Turn("user", (image, "?" * 1500)),), 64)
            for n, image in enumerate(images)
        )
        futures = [engine.submit(prompt) for prompt in prompts]
        return [future.result(timeout=WAIT_S).text for future in futures]

    whole = ask(16)
    few, many = peak(4), peak(16)
    assert many > few
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((few + (many - few) / 3) / total)
    try:
        assert len(ask(16)) == len(whole)
        assert "a microbatch of 16 failed (out of memory)" in caplog.text
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    engine.stop()
