"""A kernel that fails on the card loses the CUDA context: the worker ends, and only its microbatch loses an attempt."""

from pathlib import Path

import pytest

from producer import Client, Job
from tests.broken_worker import LONG, BrokenWorker
from tests.worker_process import TINY
from vqa.settings import QueueSettings
from workers.cards import present_cards
from workers.supervisor.link import EXIT_CRASHED

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

WAIT_S = 120.0


def job(id: str, question: str) -> Job:
    # attempts at a job that has lost a worker do not ask its retry policy
    return Job(id=id, messages=[{"role": "user", "content": question}], timeout_s=WAIT_S, retry={"attempts": 1})


def test_a_lost_context_ends_the_worker_and_charges_its_microbatch_alone(
    queue_settings: QueueSettings, redis_url: str, tmp_path: Path
) -> None:
    card = {"VQA_CARDS": f"{present_cards()[0]}", "VQA_ENGINE": "pipeline", "VQA_MODEL": str(TINY), "VQA_SLOTS": "4"}
    innocent = [f"innocent{number}" for number in range(5)]
    with Client(queue_settings) as client:
        for id in ("culprit", *innocent):
            client.submit(job(id, "word " * LONG if id == "culprit" else "What colour is it?"))
        lost = BrokenWorker(redis_url, "lost", tmp_path / "lost.log", BREAKS="assert", VQA_MICROBATCH="1", **card)
        try:
            assert lost.process.wait(WAIT_S) == EXIT_CRASHED, lost.log.read_text()
        finally:
            lost.stop()
        log = lost.log.read_text()
        print(log)
        assert "device-side assert" in log
        heir = BrokenWorker(redis_url, "heir", tmp_path / "heir.log", **card)
        try:
            attempts = {id: client.answer(id, timeout_s=WAIT_S).attempt for id in ("culprit", *innocent)}
        finally:
            heir.stop()
    assert attempts == {"culprit": 2} | dict.fromkeys(innocent, 1)
