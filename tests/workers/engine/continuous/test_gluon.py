from __future__ import annotations

import importlib.util
import logging
import sys
from types import SimpleNamespace

import pytest
import torch

MODULE = "workers.engine.continuous.ops.gluon"


@pytest.mark.parametrize(
    ("capability", "version", "runs"),
    [((9, 0), "3.6.0", True), ((9, 0), "3.9.0", False), ((8, 0), "3.6.0", False), ((10, 0), "3.9.0", False)],
)
def test_kernels_run_on_hopper_with_the_triton_that_they_ran_with(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capability: tuple[int, int],
    version: str,
    runs: bool,
) -> None:
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__=version))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    spec = importlib.util.find_spec(MODULE)
    assert spec is not None
    assert spec.loader is not None
    gluon = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gluon)

    assert [gluon.runs_on(torch.device("cuda")) for _ in range(2)] == [runs, runs]

    # where the card is theirs, and Triton is not
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    expected = "images and experts take longer: kernels for Hopper need Triton 3.6, not 3.9.0"
    assert told == ([expected] if (capability, version) == ((9, 0), "3.9.0") else [])
