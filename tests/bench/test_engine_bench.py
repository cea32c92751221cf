"""The whole benchmark at a size for any machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.engine.__main__ import main
from bench.engine.report import Figure
from tests.worker_process import ROOT

SMALL = ("--scale", "tiny", "--jobs", "6")
FEW_SLOTS = ("--slots", "4")


Figures = dict[str, dict[str, object]]


def measured(out: Path, *options: str, repeats: int = 1) -> Figures:
    """The figures of a run in this process, by name: a new one takes seconds of processor time to import torch."""
    assert main([*SMALL, "--repeats", str(repeats), *options, "--out", str(out)]) == 0
    return figures_in(out)


def measured_apart(out: Path, *options: str) -> Figures:
    """The figures of a run in a process of its own, beside which workers run."""
    command = [sys.executable, "-W", "error", "-m", "bench.engine", *SMALL, "--repeats", "1", *options]
    command += ["--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return figures_in(out)


def figures_in(out: Path) -> Figures:
    return {line["what"]: line for line in map(json.loads, out.read_text().splitlines())}


@pytest.mark.timeout(240)
def test_it_measures_the_engine_called_directly(tmp_path: Path) -> None:
    parts = ("--only", "w1,alone,step,guided,w2", "--routing", "plain,spread")
    figures = measured(tmp_path / "out.jsonl", *FEW_SLOTS, *parts, repeats=2)
    for routing in ("plain", "spread"):
        saturated = figures[f"W1, {routing} routing, continuous, all at once"]
        runs = saturated["runs"]
        assert isinstance(runs, list)
        assert len(runs) == 2
        assert saturated["worst"] == min(runs)
    for rest in (
        "W1, spread routing, continuous: prefill an image, in a full queue",
        "W1, spread routing, continuous, one alone, p50 of 10",
        "W1, spread routing, continuous: step at 1 rows",
        "W1, spread routing, continuous: kept to a grammar over free",
        "W2, spread routing, continuous, at 70% of that: p95",
    ):
        assert float(str(figures[rest]["worst"])) > 0, rest
    assert "W1, spread routing, continuous: step at 8 rows" not in figures
    assert "card" in str(figures[rest]["run"])


@pytest.mark.timeout(240)
def test_it_measures_workers_through_celery_against_that(tmp_path: Path) -> None:
    figures = measured_apart(tmp_path / "out.jsonl", *FEW_SLOTS, "--only", "celery,cards", "--routing", "spread")
    name = "W1, spread routing, continuous"
    share = figures[f"{name}, through Celery, of what it does directly"]
    assert 0 < float(str(share["worst"])) < 3
    assert float(str(figures[f"{name}, through Celery, 2 cards over one"]["worst"])) > 0


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    """What the engine is compared with, measured with the model loaded once, and with the slots that are planned."""
    return measured(tmp_path_factory.mktemp("compared") / "out.jsonl", "--only", "rival,w3,w4,off,fp8")


@pytest.mark.timeout(240)
def test_it_measures_prompts_that_begin_alike_with_a_prefix_cache_and_without(compared: Figures) -> None:
    for work in ("W3, in order", "W3, interleaved", "W4"):
        cached, off = (compared[f"{work}, continuous{name}"] for name in ("", ", no prefix cache"))
        assert float(str(compared[f"{work}: with a prefix cache over without"]["worst"])) > 0
        assert cached["notes"]["cached_share"] > 0.2 > off["notes"]["cached_share"] == 0
    assert float(str(compared["W1: with a prefix cache over without, nothing shared"]["worst"])) > 0


@pytest.mark.timeout(240)
def test_it_measures_float8_and_the_error_of_its_logits(compared: Figures) -> None:
    # the reference is the engine's own arithmetic, on a machine without a card
    exact, quantized = (compared[f"relative error of {kind} logits"] for kind in ("float32", "fp8"))
    assert float(str(exact["worst"])) < 1e-5
    assert exact["notes"]["same_greedy_token"] == 1
    assert 1e-4 < float(str(quantized["worst"])) < 0.05
    for part in ("all at once", "one alone, p50 of 10"):
        assert float(str(compared[f"W1, spread routing, continuous, fp8, {part}"]["worst"])) > 0


@pytest.mark.timeout(240)
def test_it_measures_its_rivals(compared: Figures) -> None:
    rates = [float(str(compared[f"W1, spread routing, generate with batch {n}"]["worst"])) for n in (1, 32, 64)]
    assert min(rates) > 0


def test_the_worst_run_is_what_counts() -> None:
    rate = Figure("rate", "jobs/s", [20.0, 17.0, 30.0], floor=18, aim=25)
    assert (rate.worst, rate.median, rate.verdict) == (17, 20, "SHORT")
    step = Figure("step", "ms", [30.0, 37.0], "less", floor=38, aim=28)
    assert (step.worst, step.verdict) == (37, "floor reached")
    assert Figure("step", "ms", [27.0], "less", floor=38, aim=28).verdict == "aim reached"
    assert Figure("told", "s", [1.0]).verdict == ""
