"""A real supervisor, as `vqa worker` runs it, that a test starts and ends."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from tests.worker_process import ROOT

Program = tuple[str, ...]


def two_cards(*names: str, app: str = "workers.app") -> Program:
    """A supervisor of two cards where there is none: two workers on the processor, under these names.

    It starts both at once, as they have no model to load.
    """
    lines = f"""
import sys
from workers.engine.settings import EngineSettings
from workers.log import set_up_logging
from workers.settings import WorkerSettings
from workers.supervisor import worker_process
from workers.supervisor.supervisor import Supervisor

set_up_logging("INFO")
worker_process.APP = "{app}"
supervisor = Supervisor([(), ()], None, WorkerSettings(), EngineSettings())
supervisor._any_starting = lambda: False
for worker, name in zip(supervisor._workers, {names}, strict=True):
    worker.name = name
sys.exit(supervisor.run())
"""
    return ("-c", lines)


class SupervisorProcess:
    def __init__(self, redis_url: str, log: Path, *options: str, program: Program, **variables: str) -> None:
        self.log = log
        environment = {name: value for name, value in os.environ.items() if not name.startswith("VQA_")}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *program, *options],
                env=environment | {"VQA_REDIS_URL": redis_url} | variables,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def said(self) -> str:
        return self.log.read_text()

    def worker(self, node: str = "") -> psutil.Process:
        children = psutil.Process(self.process.pid).children()
        (child,) = (each for each in children if any(word.startswith(node) for word in each.cmdline() if "@%h" in word))
        return child
