"""What a benchmark runs on: a Redis of its own and real worker processes."""

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

#: the bundled model is loaded in seconds; for a large one kernels are compiled, and its steps recorded
_READY_S = 400.0


@contextmanager
def process(*command: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A child process in the checkout, ended with SIGTERM; its output is shown when it fails."""
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
    """One worker process, on the CPU unless told otherwise, ready to answer `client`."""
    command = ["-m", "celery", "-A", app, "worker", "-n", f"{name}@%h", "--without-gossip", "--without-mingle"]
    settings = {"VQA_REDIS_URL": client.settings.redis_url, "VQA_CARDS": "cpu", "VQA_LOG_LEVEL": "WARNING"}
    with process(*command, **settings | variables) as child:
        until = time.monotonic() + _READY_S
        while not any(there.name.startswith(f"{name}@") for there in client.workers()):
            if child.poll() is not None or time.monotonic() > until:
                raise RuntimeError("the worker did not get ready")
            time.sleep(0.1)
        yield child
