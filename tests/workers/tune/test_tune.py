"""`vqa tune`, as a user runs it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.worker_process import ROOT, TINY
from workers.tune.__main__ import knee
from workers.tune.trial_process import Measurement, Setting

IMAGES = ROOT / "examples" / "images"
#: 8 slots want 80 images a second: what decodes them manages that on a core that it shares
ECHO = {"VQA_ENGINE": "echo", "VQA_CARDS": "cpu", "VQA_ECHO_DELAY_S": "0.1"}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "producer.cli.main", "tune", *map(str, arguments)]


def tune(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False
    )


def test_it_measures_each_setting_and_says_which_to_take() -> None:
    done = tune(IMAGES, "--slots", "2,8", "--jobs", "40", **ECHO)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("VQA_SLOTS=")]
    rates = {row[0]: float(row[1]) for row in rows[:2]}
    assert rates["VQA_SLOTS=8"] > 2 * rates["VQA_SLOTS=2"] > 0
    assert done.stdout.splitlines()[-1] == "VQA_SLOTS=8"


def test_it_sweeps_microbatches_on_the_bundled_model() -> None:
    sweep = ("--engine", "pipeline", "--slots", "4", "--microbatch", "1,4,8", "--jobs", "8", "--max-new-tokens", "4")
    done = tune(IMAGES, "--model", TINY, "--cards", "cpu", *sweep)
    assert done.returncode == 0, done.stderr + done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("VQA_SLOTS=4 ")]
    # more than the slots is never run
    assert [row.split()[1] for row in rows] == ["VQA_MICROBATCH=1", "VQA_MICROBATCH=4"]
    assert done.stdout.splitlines()[-2] == "VQA_SLOTS=4"
    assert done.stdout.splitlines()[-1].startswith("VQA_MICROBATCH=")


def test_a_setting_that_cannot_run_is_a_row_with_the_reason() -> None:
    slots = ("--slots", "2,1024", "--jobs", "4", "--max-new-tokens", "4")
    done = tune(IMAGES, "--model", TINY, "--cards", "cpu", *slots, VQA_SLOT_TOKENS="1000000000")
    assert done.returncode == 1
    assert "VQA_SLOTS=1024" in done.stdout
    assert "NotReady" in done.stdout
    assert "knee" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("nowhere.png",), "cannot read the image"),
        ((Path(__file__),), "not an image"),
        ((IMAGES, "--slots", "0"), "'0' is not a number"),
        ((IMAGES, "--microbatch", "4"), "only the pipeline engine"),
        ((IMAGES, "--cards", "cat"), "VQA_CARDS"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(arguments: tuple[str | Path, ...], why: str) -> None:
    done = tune(*arguments)
    assert done.returncode == 2
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_it_with_what_was_measured_and_leaves_no_process_behind() -> None:
    environment = {**os.environ, **ECHO}
    started = command(IMAGES, "--slots", "2,4", "--jobs", "60")
    with subprocess.Popen(started, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as tuning:
        assert tuning.stdout is not None
        tuning.stdout.readline()
        first = tuning.stdout.readline()
        assert first.startswith("VQA_SLOTS=2")
        children = _trials(tuning.pid)
        tuning.send_signal(signal.SIGINT)
        rest = tuning.stdout.read()
    assert tuning.returncode == 130
    assert "stopped" in rest
    assert rest.splitlines()[-1] == "VQA_SLOTS=2"
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)


def test_a_trial_ends_when_whoever_started_it_is_killed() -> None:
    environment = {**os.environ, **ECHO}
    started = command(IMAGES, "--slots", "2", "--jobs", "1000")
    with subprocess.Popen(started, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as tuning:
        children = _trials(tuning.pid)
        tuning.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def _trials(pid: int) -> list[psutil.Process]:
    """The processes that it has started, once there are any."""
    end = time.monotonic() + 30
    while not (children := psutil.Process(pid).children(recursive=True)):
        assert time.monotonic() < end
        time.sleep(0.05)
    return children


def test_the_knee_is_the_fewest_slots_that_are_nearly_as_fast_as_the_fastest() -> None:
    rates = {16: 8.0, 32: 13.9, 64: 14.8, 128: 15.2}
    measured = {Setting(slots): Measurement(rate, 1, 2) for slots, rate in rates.items()}
    assert knee(measured) == Setting(64)
    microbatches = {Setting(8, size): Measurement(rate, 1, 2) for size, rate in {2: 5.0, 4: 9.8, 8: 10.0}.items()}
    assert knee(microbatches) == Setting(8, 4)
