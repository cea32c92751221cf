"""A real worker and the process of its engine: neither outlives the other, and no job is lost."""

import signal
from pathlib import Path

import psutil

from producer import Client, Job
from tests.broken_worker import LONG, BrokenWorker
from tests.e2e.conftest import WAIT_S
from tests.worker_process import TINY, StartWorker
from workers.supervisor.link import EXIT_CRASHED

MODEL = {"VQA_ENGINE": "continuous", "VQA_MODEL": str(TINY), "VQA_SLOTS": "2"}


def job(question: str = "?", **fields: object) -> Job:
    return Job(messages=[{"role": "user", "content": question}], timeout_s=300, **fields)


def engine_of(worker: psutil.Process) -> psutil.Process:
    [engine] = [each for each in worker.children() if "workers.engine.process.child" in each.cmdline()]
    return engine


def test_an_engine_whose_process_ends_is_a_crash_and_one_whose_worker_is_killed_ends(
    client: Client, redis_url: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    client.submit(job("word " * LONG, id="culprit", retry={"attempts": 1}))
    lost = BrokenWorker(redis_url, "lost", tmp_path / "lost.log", BREAKS="exit", **MODEL)
    try:
        assert lost.process.wait(WAIT_S) == EXIT_CRASHED, lost.log.read_text()
    finally:
        lost.stop()
    log = lost.log.read_text()
    assert "the engine crashed, this worker ends" in log
    assert "EngineError: the engine's process exited with status 5" in log
    heir = start_worker("heir", **MODEL)
    answer = client.answer("culprit", timeout_s=WAIT_S)
    assert (answer.attempt, answer.last_error) == (2, "EngineError: the engine's process exited with status 5")
    engine = engine_of(psutil.Process(heir.process.pid))
    heir.kill()
    psutil.wait_procs([engine], WAIT_S)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


def test_an_engine_that_is_killed_while_it_loads_may_be_started_again(redis_url: str, tmp_path: Path) -> None:
    worker = BrokenWorker(redis_url, "short", tmp_path / "log", BREAKS="load", **MODEL)
    try:
        # not EXIT_NEVER_READY, after which a supervisor gives up
        assert worker.process.wait(WAIT_S) == EXIT_CRASHED, worker.log.read_text()
    finally:
        worker.stop()
    assert "LoadingCrashed: the engine's process was killed by SIGKILL before the model" in worker.log.read_text()


def test_a_worker_without_torch_drains_with_its_engine_when_both_are_asked_to_stop(
    client: Client, start_worker: StartWorker
) -> None:
    worker = start_worker("stops", **MODEL)
    assert client.answer(client.submit(job()), timeout_s=WAIT_S).text
    process = psutil.Process(worker.process.pid)
    engine = engine_of(process)
    loaded = {Path(each.path).name for each in process.memory_maps()}
    assert not [name for name in loaded if name.startswith("libtorch")]
    # as a container or service manager does that signals all processes: the worker drains
    engine.send_signal(signal.SIGTERM)
    assert client.answer(client.submit(job()), timeout_s=WAIT_S).text
    assert worker.stop() == 0
    assert not engine.is_running()
