import subprocess
import sys
import time

import psutil
import pytest

from tests.worker_process import ROOT

PROGRAM = """
import subprocess, sys, time
from tests.chaos.guard import Guard
with Guard() as guard:
    children = [subprocess.Popen(["sleep", "100"]) for _ in range(2)]
    for child in children:
        guard.watch(child.pid)
    guard.forget(children[1].pid)
    print(*(child.pid for child in children), flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_what_is_watched_ends_with_its_parent_however_that_ends(how: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout
        watched, forgotten = map(int, parent.stdout.readline().split())
        getattr(parent, how)()
    other = psutil.Process(forgotten)
    try:
        until = time.monotonic() + 10
        while psutil.pid_exists(watched) and psutil.Process(watched).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < until, "the child lives on"
            time.sleep(0.02)
        assert other.is_running()
    finally:
        other.kill()
