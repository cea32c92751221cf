"""A real worker whose engine hangs: it ends, says so, and only those that may be why have lost an attempt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from producer import Client, Job
from tests.broken_worker import LONG, BrokenWorker
from tests.e2e.conftest import WAIT_S, until
from tests.worker_process import TINY, StartWorker
from workers.supervisor.link import EXIT_HUNG


def job(question: str = "?", **fields: Any) -> Job:
    return Job(messages=[{"role": "user", "content": question}], timeout_s=300, **fields)


def leased(client: Client, count: int) -> Callable[[], bool]:
    return lambda: client.counts()["interactive"]["leased"] == count


def test_a_hung_workers_jobs_are_answered_by_another_and_those_without_a_slot_lose_no_attempt(
    client: Client, start_worker: StartWorker
) -> None:
    hung = start_worker("hung", VQA_SLOTS="2", VQA_HANG_S="1", VQA_ECHO_DELAY_S="100")
    client.submit(job(id="neighbour", retry={"attempts": 1}))
    until(leased(client, 1))
    hang = {"echo_delay_s": "0.2", "echo_fail": "hang", "echo_fail_attempts": "1"}
    client.submit(job(id="culprit", metadata=hang, retry={"attempts": 1}))
    # it may have ended before this is seen
    until(lambda: leased(client, 2)() or hung.process.poll() is not None)
    client.submit(job(id="waits", retry={"attempts": 1}))
    assert hung.process.wait(WAIT_S) == EXIT_HUNG
    # back at once: no lease has to run out
    assert client.counts()["interactive"]["leased"] == 0
    start_worker("heir", VQA_ECHO_DELAY_S="0")
    answers = {id: client.answer(id, timeout_s=WAIT_S) for id in ("culprit", "neighbour", "waits")}
    assert {id: answer.attempt for id, answer in answers.items()} == {"culprit": 2, "neighbour": 2, "waits": 1}
    assert answers["culprit"].last_error == "EngineError: the engine hung in decode"
    log = hung.log.read_text()
    assert "the engine hangs, this worker ends: no sign of life for" in log
    assert "Traceback" not in log


def test_a_worker_whose_consumer_stands_still_ends(
    client: Client, redis_url: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    limits = {"VQA_HANG_S": "1", "VQA_REDIS_TIMEOUT_S": "1"}
    hung = BrokenWorker(redis_url, "hung", tmp_path / "hung.log", BREAKS="stand", **limits)
    try:
        # the message that it has popped is lost with it
        client.submit(job(id="waits", retry={"attempts": 1}))
        assert hung.process.wait(WAIT_S) == EXIT_HUNG, hung.log.read_text()
    finally:
        hung.stop()
    assert "the consumer hangs, this worker ends: no sign of life for" in hung.log.read_text()
    start_worker("heir")
    assert client.answer("waits", timeout_s=WAIT_S).attempt == 1


@pytest.mark.parametrize(
    "engine",
    [{"VQA_ENGINE": "pipeline", "VQA_MICROBATCH": "1"}, {"VQA_ENGINE": "continuous", "VQA_SLOTS": "1"}],
    ids=["pipeline", "continuous"],
)
def test_a_model_that_hangs_ends_its_worker(
    client: Client, redis_url: str, start_worker: StartWorker, tmp_path: Path, engine: dict[str, str]
) -> None:
    client.submit(job("word " * LONG, id="culprit"))
    client.submit(job("What colour is it?", id="waits"))
    hung = BrokenWorker(
        redis_url, "hung", tmp_path / "hung.log", BREAKS="hang", VQA_HANG_S="1", VQA_MODEL=str(TINY), **engine
    )
    try:
        assert hung.process.wait(WAIT_S) == EXIT_HUNG, hung.log.read_text()
    finally:
        hung.stop()
    start_worker("heir")
    assert {id: client.answer(id, timeout_s=WAIT_S).attempt for id in ("culprit", "waits")} == {
        "culprit": 2,
        "waits": 1,
    }
