"""The command that starts a worker, in place of Celery's own, and what it imports."""

import os
import re
import subprocess
import sys
from pathlib import Path

from producer import Client, Job
from tests.worker_process import ROOT, WorkerProcess
from vqa.settings import QueueSettings

OURS = ("-m", "workers.celery_worker", "workers.app")
CELERY = ("-m", "celery", "-A", "workers.app", "worker")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    environment = os.environ | {"VQA_ENGINE": "echo", "VQA_CARDS": "cpu", "COLUMNS": "100"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)


def test_it_has_the_options_of_celery_worker() -> None:
    ours, celerys = run(*OURS, "--help"), run(*CELERY, "--help")
    assert ours.returncode == celerys.returncode == 0, ours.stderr + celerys.stderr
    assert "--without-gossip" in ours.stdout
    assert re.sub("Usage:.*", "", ours.stdout) == re.sub("Usage:.*", "", celerys.stdout)


def test_a_wrong_option_is_told_in_one_line() -> None:
    wrong = run(*OURS, "--nothing")
    assert wrong.returncode == 2
    assert wrong.stderr.endswith("Error: No such option '--nothing'.\n")
    assert "Traceback" not in wrong.stderr


def test_a_worker_without_a_model_imports_no_model_and_no_other_command() -> None:
    # Celery's group of all commands, what they bring, and what engines with a model bring
    others = {"celery.bin.celery", "flower", "tornado", "prompt_toolkit", "click_repl", "typer", "fastapi", "pyarrow"}
    others |= {"torch", "transformers", "accelerate", "numpy", "workers.engine.process.engine"}
    imported = run("-c", f"import sys, workers.celery_worker, workers.app; print(*({others} & sys.modules.keys()))")
    assert (imported.stdout, imported.returncode) == ("\n", 0), imported.stderr


class CommandOfCelery(WorkerProcess):
    """Starts as `celery -A workers.app worker` does."""

    program = ("-c", "import sys; sys.argv[1:2] = ['-A', sys.argv[1], 'worker']; import celery.__main__ as c; c.main()")


def test_the_command_of_celery_starts_a_worker_too(
    redis_url: str, queue_settings: QueueSettings, tmp_path: Path
) -> None:
    worker = CommandOfCelery(redis_url, "celerys", tmp_path / "log")
    try:
        with Client(queue_settings) as client:
            id = client.submit(Job(messages=[{"role": "user", "content": "What is it?"}]))
            assert client.answer(id, timeout_s=60).worker.startswith("celerys@"), worker.log.read_text()
    finally:
        assert worker.stop() == 0
