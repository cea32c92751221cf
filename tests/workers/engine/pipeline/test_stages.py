"""An answer tells how long its prompt waited, was prefilled and was decoded, which together is the engine's time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pytest
from transformers.generation.utils import GenerationMixin

from tests.worker_process import TINY
from tests.workers.engine.conftest import SOON
from training.questions import held_out
from workers.engine.base import Completion, Prompt, SamplingParams, Turn
from workers.engine.image import RGBImage
from workers.engine.pipeline.engine import PipelineEngine
from workers.engine.settings import EngineSettings

#: seconds for which a prompt keeps the engine busy
HELD_S = 0.3

#: seconds between the last token and the future's callback on a machine that is busy with other things
LATE_S = 2.0


@dataclass
class Asked:
    """A prompt that was submitted, and how long the engine had it."""

    future: Future[Completion]
    submitted: float
    settled: float = 0.0

    def completion(self) -> Completion:
        """Return the completion, whose stages are the engine's time."""
        made = self.future.result(SOON)
        engine_s = self.settled - self.submitted
        assert min(made.slot_wait_s, made.prefill_s, made.decode_s) > 0
        assert engine_s - LATE_S < made.slot_wait_s + made.prefill_s + made.decode_s <= engine_s
        return made


class Hold:
    """Keeps the engine's thread at the first text of a prompt until `release`."""

    def __init__(self) -> None:
        self._reached, self._released = threading.Event(), threading.Event()

    def __call__(self, text: str) -> None:
        self._reached.set()
        self._released.wait(SOON)

    def wait(self) -> None:
        assert self._reached.wait(SOON)

    def release(self) -> None:
        time.sleep(HELD_S)
        self._released.set()


@pytest.fixture(scope="module")
def engine() -> Iterator[PipelineEngine]:
    """The bundled model, two prompts a microbatch."""
    engine = PipelineEngine(EngineSettings(model=str(TINY)), slots=4, wait_s=SOON)
    engine.start(lambda error, ids: None)
    yield engine
    engine.stop()


def ask(engine: PipelineEngine, on_text: Callable[[str], None] | None = None, with_image: bool = True) -> Asked:
    [item] = held_out(1)
    # a text of about as many tokens as the image, or they would not share a microbatch
    parts = (RGBImage.from_pil(item.image), item.question) if with_image else (f"{item.question} " * 5,)
    prompt = Prompt("id", (Turn("user", parts),), SamplingParams(6), on_text=on_text)
    submitted = time.monotonic()
    asked = Asked(engine.submit(prompt), submitted)

    def settle(_: Future[Completion]) -> None:
        asked.settled = time.monotonic()

    asked.future.add_done_callback(settle)
    return asked


def test_a_prompt_waits_for_a_slot_while_the_microbatch_before_is_decoded(engine: PipelineEngine) -> None:
    hold = Hold()
    held, beside = ask(engine, hold), ask(engine)
    hold.wait()
    waiting = [ask(engine), ask(engine)]
    hold.release()

    assert held.completion().decode_s >= HELD_S
    assert min(each.completion().slot_wait_s for each in waiting) >= HELD_S
    beside.completion()


def test_a_prompt_of_another_kind_in_a_microbatch_waits_for_the_first(engine: PipelineEngine) -> None:
    hold = Hold()
    with_image, without = ask(engine, hold), ask(engine, with_image=False)
    hold.wait()
    hold.release()

    assert with_image.completion().decode_s >= HELD_S
    assert without.completion().slot_wait_s >= HELD_S


def test_a_run_that_failed_counts_as_waiting(engine: PipelineEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    generate: Callable[..., Any] = GenerationMixin.generate

    def fails_together(model: Any, **given: Any) -> Any:
        if len(given["input_ids"]) > 1:
            time.sleep(HELD_S)
            raise RuntimeError("together")
        return generate(model, **given)

    monkeypatch.setattr(GenerationMixin, "generate", fails_together)
    asked = [ask(engine), ask(engine)]

    assert min(each.completion().slot_wait_s for each in asked) >= HELD_S
