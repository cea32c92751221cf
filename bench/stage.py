"""Worker processes for benchmarks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from producer import Client

ROOT = Path(__file__).parent.parent
TINY = ROOT / "models" / "tiny-vl"

#: a large model compiles kernels and captures CUDA graphs; the bundled one is ready in seconds
_READY_S = 400.0


@contextmanager
def process(*command: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child process in the checkout; end it with SIGTERM, and print its output if the context raises."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VQA_")}
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        try:
            yield child
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-4000:])
            raise
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextmanager
def worker(
    client: Client, app: str = "workers.app", name: str = "bench", **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker process, on the CPU by default, and yield it when `client` sees it. Raises RuntimeError."""
    command = ["-m", "celery", "-A", app, "worker", "-n", f"{name}@%h", "--without-gossip", "--without-mingle"]
    settings = {"VQA_REDIS_URL": client.settings.redis_url, "VQA_CARDS": "cpu", "VQA_LOG_LEVEL": "WARNING"}
    with process(*command, **settings | variables) as child:
        until = time.monotonic() + _READY_S
        while not any(there.name.startswith(f"{name}@") for there in client.workers()):
            if child.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the worker {name} was not ready within {_READY_S:.0f} s, or exited")
            time.sleep(0.1)
        yield child
