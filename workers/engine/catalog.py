"""The engines there are. Each is imported when it is made, so that the echo engine needs no torch."""

from __future__ import annotations

from workers.engine.base import Engine
from workers.engine.settings import EngineSettings


def make_engine(settings: EngineSettings, slots: int) -> Engine:
    """The engine that `settings` names (`choice.chosen` names one for `auto`), not started, for a card with `slots`."""
    match settings.engine:
        case "continuous":
            from workers.engine.continuous.engine import ContinuousEngine

            return ContinuousEngine(settings, slots)
        case "echo":
            from workers.engine.echo.engine import EchoEngine

            return EchoEngine(settings, slots)
        case "pipeline":
            from workers.engine.pipeline.engine import PipelineEngine

            return PipelineEngine(settings, slots)
        case "auto":
            raise ValueError("auto names no engine")
