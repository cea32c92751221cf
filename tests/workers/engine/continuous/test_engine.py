"""The engine as its protocol has it, over the tiny model on the CPU."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.workers.engine.conftest import SOON, Crashes, ask, make_prompt, wait_until
from vqa.errors import Cancelled, DeadlineExceeded, EngineError, InvalidJob, NotReady, PromptTooLong
from workers.engine.base import Completion, Engine, Prompt, Turn
from workers.engine.continuous import build
from workers.engine.continuous.engine import ContinuousEngine
from workers.engine.continuous.ops import reference
from workers.engine.image import RGBImage
from workers.engine.settings import EngineSettings
from workers.engine.stats import Stats

#: more than can be computed while a test runs
ENDLESS = 40_000

#: whether prompts take what others have computed of their beginnings; without it all is computed in their company
caching = pytest.mark.parametrize("prefix_cache", [True, False], ids=["cached", "computed"])


class Starting(Protocol):
    """Starts an engine over the dense model; it is stopped when the test ends."""

    def __call__(self, slots: int = 4, **settings: Any) -> ContinuousEngine: ...


@pytest.fixture
def starting(dense: Any, dense_model: Path, crashes: Crashes) -> Iterator[Starting]:
    engines = []

    def start(slots: int = 4, **settings: Any) -> ContinuousEngine:
        given = EngineSettings(**{"model": str(dense_model), "prefill_tokens": 64, "slot_tokens": 512, **settings})
        engine = ContinuousEngine(given, slots, load=lambda _: dense)
        engines.append(engine)
        engine.start(lambda error, ids: crashes.append((error, tuple(ids))))
        return engine

    yield start
    for engine in engines:
        engine.stop()


class Gate:
    """Holds the engine's thread before it attends from decoding rows, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        #: decoding rows, for each layer of each pass that has any
        self.steps: list[int] = []
        attend_paged = reference.attend_paged

        def gated(q: Tensor, *given: Any) -> None:
            self.steps.append(len(q))
            self.reached.set()
            assert self.open.wait(SOON)
            attend_paged(q, *given)

        monkeypatch.setattr(reference, "attend_paged", gated)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()


def answers(engine: Engine, prompts: list[Prompt]) -> list[Completion]:
    """Submitted at once."""
    return [future.result(SOON) for future in [engine.submit(prompt) for prompt in prompts]]


def uncached(*completions: Completion) -> list[Completion]:
    """Completions as they were if no token had been found in the cache."""
    return [replace(completion, cached_tokens=0) for completion in completions]


def given(stats: Stats) -> int:
    """Tokens of all prompts, computed or not."""
    return stats.prompt_tokens + stats.cached_tokens


def long(number: int, tokens: int, **how: Any) -> Prompt:
    """A prompt of exactly so many tokens."""
    # of each character one, and 20 around the words
    return make_prompt(f"job-{number}", (Turn("user", ("x" * (tokens - 19),)),), **{"max_new_tokens": 4, **how})


def break_attention(monkeypatch: pytest.MonkeyPatch, tokens: int, error: BaseException) -> list[tuple[int, ...]]:
    """Let the model fail at the end of every prompt of so many tokens.

    What is returned gets, of each attention of chunks, the tokens of their prompts up to their ends.
    """
    attend_chunks = reference.attend_chunks
    seen: list[tuple[int, ...]] = []

    def breaks(q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, starts: Tensor, lengths: Tensor, *given: Any) -> None:
        seen.append(tuple(lengths.tolist()))
        if tokens in seen[-1]:
            raise error
        attend_chunks(q, k, v, blocks, starts, lengths, *given)

    monkeypatch.setattr(reference, "attend_chunks", breaks)
    return seen


def test_it_is_an_engine(starting: Starting) -> None:
    engine: Engine = starting()

    assert engine.model.startswith("dense")
    assert engine.fit is not None
    assert engine.fit.size(1000, 10) == (1920 // 3, 32) or engine.fit.size(64, 64) == (64, 64)
    assert engine.stall() is None


@caching
def test_answers_in_company_are_those_of_prompts_alone(starting: Starting, prefix_cache: bool) -> None:
    engine = starting(slots=3, prefix_cache=prefix_cache)
    prompts = [ask(number) for number in range(8)]
    prompts += [make_prompt("words", (Turn("user", ("hello",)),), 6), long(9, 200)]

    alone = [engine.submit(prompt).result(SOON) for prompt in prompts]
    company = answers(engine, prompts)

    assert uncached(*company) == uncached(*alone)
    # of a prompt that was asked before, all full blocks but that with the last token
    found = [(each.prompt_tokens - 1) // 16 * 16 if prefix_cache else 0 for each in company]
    assert [each.cached_tokens for each in company] == found
    assert len({completion.text for completion in alone}) == len(prompts)


def test_each_prompt_has_its_own_length(starting: Starting) -> None:
    engine = starting()

    completions = answers(engine, [ask(number, max_new_tokens=number + 1) for number in range(6)])

    assert [completion.completion_tokens for completion in completions] == [1, 2, 3, 4, 5, 6]
    assert {completion.finish_reason for completion in completions} == {"length"}


def test_a_short_answer_comes_before_a_long_one_beside_it(starting: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = starting(slot_tokens=50_000)
    endless = engine.submit(ask(0, max_new_tokens=ENDLESS))

    assert answers(engine, [ask(number) for number in range(1, 8)])
    assert not endless.done()


def test_a_stop_string_ends_an_answer_and_is_no_part_of_it(starting: Starting) -> None:
    engine = starting()
    whole = [completion.text for completion in answers(engine, [ask(0), ask(1)])]
    stop = whole[0][4:6]
    before = whole[0][: whole[0].index(stop)]

    stopped, neighbour = answers(engine, [ask(0, stop=("never this", stop)), ask(1)])

    assert (stopped.text, stopped.finish_reason) == (before, "stop")
    assert stopped.completion_tokens < 12
    assert (neighbour.text, neighbour.finish_reason) == (whole[1], "length")


def test_a_token_that_ends_the_text_ends_an_answer_and_counts(
    starting: Starting, dense: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = starting().submit(ask(0)).result(SOON).text
    end = next(character for character in whole[3:] if character.isascii())
    monkeypatch.setattr(dense.model.generation_config, "eos_token_id", dense.tokenizer.encode(end))

    completion = starting().submit(ask(0)).result(SOON)

    assert (completion.text, completion.finish_reason) == (whole[: whole.index(end)], "stop")
    assert 1 < completion.completion_tokens < 12


def test_who_listens_is_told_the_answer_while_it_is_made(starting: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = starting()
    heard: list[str] = []
    with Gate(monkeypatch) as gate:
        future = engine.submit(ask(0, on_text=heard.append))
        assert gate.reached.wait(SOON)
        assert not future.done()

    text = future.result(SOON).text
    assert len(heard) > 2
    assert "".join(heard) == text == engine.submit(ask(0)).result(SOON).text


def test_one_who_listens_and_raises_fails_alone(starting: Starting) -> None:
    engine = starting()
    neighbour = engine.submit(ask(1)).result(SOON)

    def raises(piece: str) -> None:
        raise OSError("nobody there")

    failed, beside = engine.submit(ask(0, on_text=raises)), engine.submit(ask(1))

    assert "OSError" in str(failed.exception(SOON))
    assert uncached(beside.result(SOON)) == uncached(neighbour)


def test_a_deadline_that_passes_in_the_queue_fails_at_once_and_costs_nothing(
    starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = starting(slots=1)
    with Gate(monkeypatch) as gate:
        running = engine.submit(ask(0))
        assert gate.reached.wait(SOON)
        before = given(engine.stats())
        waiting = engine.submit(ask(1, deadline=time.monotonic() + 0.05))

        assert isinstance(waiting.exception(SOON), DeadlineExceeded)
        assert isinstance(engine.submit(ask(2, deadline=time.monotonic())).exception(SOON), DeadlineExceeded)

    last = engine.submit(ask(3)).result(SOON)
    # the first one's may not have been counted yet
    computed = running.result(SOON).prompt_tokens + last.prompt_tokens
    assert given(engine.stats()) - before in {last.prompt_tokens, computed}


def test_a_deadline_that_passes_in_a_slot_frees_it_at_the_next_step(
    starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = starting(slots=1, slot_tokens=50_000)
    with Gate(monkeypatch) as gate:
        late = engine.submit(ask(0, max_new_tokens=ENDLESS, deadline=time.monotonic() + 1.5))
        assert gate.reached.wait(SOON)
        follower = engine.submit(ask(1))
        assert isinstance(late.exception(SOON), DeadlineExceeded)
        assert len(gate.steps) == 1

    assert follower.result(SOON).completion_tokens == 12
    # two layers each; the late one gets no other step
    assert len(gate.steps) == 2 * (1 + 11)


@pytest.mark.parametrize("slots", [1, 4])
def test_cancelling_ends_a_prompt_in_a_slot_and_one_that_waits(
    starting: Starting, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    engine = starting(slots=slots, slot_tokens=50_000)
    running = [engine.submit(ask(number, max_new_tokens=ENDLESS)) for number in range(slots)]
    wait_until(lambda: engine.stats().step_tokens > 4 * slots)
    waiting = engine.submit(ask(9))
    for number in (*range(slots), 9):
        engine.cancel(f"job-{number}")
    engine.cancel("unknown")

    assert all(isinstance(future.exception(SOON), Cancelled) for future in (*running, waiting))
    # that many tokens would take minutes
    assert answers(engine, [ask(number) for number in range(10, 16)])


def test_a_cancelled_prompt_makes_room_for_the_next_and_nobody_else_is_disturbed(starting: Starting) -> None:
    engine = starting(slots=2, slot_tokens=50_000)
    alone = engine.submit(ask(1)).result(SOON)
    remaining, cancelled = (engine.submit(ask(number, max_new_tokens=ENDLESS)) for number in (5, 6))
    wait_until(lambda: engine.stats().step_tokens > 8)
    next_one = engine.submit(ask(1))
    assert not next_one.done()

    engine.cancel("job-6")

    assert uncached(next_one.result(SOON)) == uncached(alone)
    assert isinstance(cancelled.exception(SOON), Cancelled)
    assert not remaining.done()


def test_prompts_longer_than_a_slot_are_refused_by_name(starting: Starting) -> None:
    engine = starting(slot_tokens=128)

    assert engine.submit(long(0, 124)).result(SOON).prompt_tokens == 124
    with pytest.raises(PromptTooLong, match="VQA_SLOT_TOKENS"):
        engine.submit(long(1, 125)).result(SOON)
    with pytest.raises(PromptTooLong, match="at least"):
        engine.submit(make_prompt("a", (Turn("user", ("word " * 100_000,)),), 4)).result(SOON)


def few_blocks(monkeypatch: pytest.MonkeyPatch, blocks: int) -> None:
    # of the dense model: 2 layers of keys and values, 2 x 16 numbers each in float32
    block = 2 * 2 * 32 * 4 * 16
    # a quarter of the machine's is taken
    monkeypatch.setattr(build, "free_memory", lambda: blocks * block * 4)


@caching
def test_what_the_memory_never_holds_is_refused_and_what_it_holds_later_waits(
    starting: Starting, monkeypatch: pytest.MonkeyPatch, prefix_cache: bool
) -> None:
    # an image may take 64 tokens
    few_blocks(monkeypatch, 12)
    engine = starting(max_image_tokens=64, prefix_cache=prefix_cache)
    assert engine.built.block_manager.num_blocks == 12
    alone = engine.submit(long(0, 100)).result(SOON)

    with pytest.raises(PromptTooLong, match="than the card has room for"):
        engine.submit(long(1, 190)).result(SOON)

    # of two there is room for one, unless they share blocks
    assert uncached(*answers(engine, [long(0, 100) for _ in range(6)])) == uncached(*[alone] * 6)
    assert engine.submit(long(2, 189)).result(SOON).prompt_tokens == 189


def test_a_single_slot_shorter_than_the_largest_image_serves_what_it_holds(starting: Starting) -> None:
    engine = starting(slots=1, slot_tokens=128, max_image_tokens=1024)

    assert engine.submit(ask(0)).result(SOON)


def test_without_room_for_one_image_it_is_not_ready(starting: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    few_blocks(monkeypatch, 4)

    with pytest.raises(NotReady, match=r"room for 64 tokens .*VQA_MAX_IMAGE_TOKENS.*VQA_PREFILL_TOKENS=64"):
        starting(max_image_tokens=64)


def test_a_image_of_a_wrong_size_is_refused_and_its_neighbours_answered(starting: Starting) -> None:
    engine = starting()
    good = engine.submit(ask(0)).result(SOON)
    wrong = RGBImage(70, 64, bytes(70 * 64 * 3), "wrong")
    # fewer pixels than it says
    short = RGBImage(64, 64, bytes(100), "short")

    prompts = [ask(0), *(make_prompt(p.digest, (Turn("user", (p, "?")),), 4) for p in (wrong, short)), ask(0)]
    first, *bad, last = [engine.submit(prompt) for prompt in prompts]

    assert uncached(first.result(SOON), last.result(SOON)) == uncached(good, good)
    assert all(isinstance(future.exception(SOON), InvalidJob) for future in bad)


@caching
def test_a_prompt_that_the_model_fails_on_fails_alone(
    starting: Starting,
    monkeypatch: pytest.MonkeyPatch,
    crashes: Crashes,
    caplog: pytest.LogCaptureFixture,
    prefix_cache: bool,
) -> None:
    engine = starting(slots=8, prefill_tokens=1000, prefix_cache=prefix_cache)
    innocent = [ask(number) for number in range(6)]
    alone = [engine.submit(prompt).result(SOON) for prompt in innocent]
    seen = break_attention(monkeypatch, 77, ValueError("the user's own words"))
    with Gate(monkeypatch) as gate:
        # held, so that those that follow are prefilled together
        first = engine.submit(ask(8))
        assert gate.reached.wait(SOON)
        futures = [engine.submit(prompt) for prompt in innocent[:2]]
        culprit = engine.submit(long(7, 77))
        futures += [engine.submit(prompt) for prompt in innocent[2:]]
        wait_until(lambda: len(engine._intake._new) == 7)

    with pytest.raises(EngineError, match=r"failed on this prompt \(ValueError\)"):
        culprit.result(SOON)
    assert uncached(*(future.result(SOON) for future in futures)) == uncached(*alone)
    assert first.result(SOON)
    assert any(len(lengths) > 1 and 77 in lengths for lengths in seen)
    assert "running them one by one" in caplog.text
    assert not any("own words" in record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG)
    assert not crashes
    assert uncached(engine.submit(ask(0)).result(SOON)) == uncached(alone[0])


@caching
def test_a_prompt_that_fails_in_a_later_chunk_fails_alone(
    starting: Starting, monkeypatch: pytest.MonkeyPatch, prefix_cache: bool
) -> None:
    engine = starting(prefill_tokens=64, prefix_cache=prefix_cache)
    alone = engine.submit(ask(0)).result(SOON)
    break_attention(monkeypatch, 149, ValueError())

    culprit, beside = engine.submit(long(1, 149)), engine.submit(ask(0))

    assert isinstance(culprit.exception(SOON), EngineError)
    assert uncached(beside.result(SOON)) == uncached(alone)
    assert uncached(engine.submit(ask(0)).result(SOON)) == uncached(alone)


@caching
def test_a_image_that_the_tower_fails_on_fails_its_prompt_alone(
    starting: Starting, dense: Any, prefix_cache: bool
) -> None:
    engine = starting(vision_reuse_mib=0, prefix_cache=prefix_cache)
    alone = engine.submit(ask(0)).result(SOON)
    # 160 x 96 pixels: 60 patches, merged 4 by 4
    merger = dense.model.model.visual.merger

    def fails(module: Any, given: tuple[Tensor, ...]) -> None:
        if given[0].shape[0] >= 60:
            raise MemoryError

    hook = merger.register_forward_pre_hook(fails)
    try:
        culprit, beside = engine.submit(ask(3)), engine.submit(ask(0))
        assert isinstance(culprit.exception(SOON), EngineError)
        assert uncached(beside.result(SOON)) == uncached(alone)
    finally:
        hook.remove()


@pytest.mark.parametrize(
    "raised", [RuntimeError("CUDA error: device-side assert triggered"), KeyboardInterrupt(), SystemExit()]
)
def test_what_escapes_a_prefill_is_told_once_with_who_is_in_a_slot_and_fails_everybody(
    starting: Starting, monkeypatch: pytest.MonkeyPatch, crashes: Crashes, raised: BaseException
) -> None:
    engine = starting(slots=2, slot_tokens=50_000)
    running = engine.submit(ask(0, max_new_tokens=ENDLESS))
    wait_until(lambda: engine.stats().step_tokens > 4)
    break_attention(monkeypatch, 50, raised)
    with Gate(monkeypatch) as gate:
        assert gate.reached.wait(SOON)
        # the other lane has to wait for the one slot
        futures = [engine.submit(prompt) for prompt in (long(1, 50), ask(2, lane="bulk"), ask(3, lane="bulk"))]
        wait_until(lambda: len(engine._intake._new) == 3)

    assert all(isinstance(future.exception(SOON), EngineError) for future in (running, *futures))
    wait_until(lambda: bool(crashes))
    ((error, ids),) = crashes
    assert error is raised
    assert sorted(ids) == ["job-0", "job-1"]
    assert isinstance(engine.submit(ask(4)).exception(SOON), EngineError)


def test_what_escapes_a_step_is_told_with_who_was_in_it(
    starting: Starting, monkeypatch: pytest.MonkeyPatch, crashes: Crashes
) -> None:
    engine = starting(slots=2)
    raised = RuntimeError("no step can be repeated")

    def breaks(*_: Any) -> None:
        raise raised

    monkeypatch.setattr(reference, "attend_paged", breaks)
    futures = [engine.submit(ask(number)) for number in range(3)]

    assert all(isinstance(future.exception(SOON), EngineError) for future in futures)
    wait_until(lambda: bool(crashes))
    ((error, ids),) = crashes
    assert error is raised
    assert set(ids) <= {"job-0", "job-1", "job-2"}
    assert ids


def test_stopping_settles_all_and_the_thread_ends(starting: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = starting(slots=1)
    with Gate(monkeypatch) as gate:
        running, waiting = engine.submit(ask(0)), engine.submit(ask(1))
        assert gate.reached.wait(SOON)
        stopping = threading.Thread(target=engine.stop)
        stopping.start()
        assert isinstance(running.exception(SOON), EngineError)
        assert isinstance(waiting.exception(SOON), EngineError)

    stopping.join(SOON)
    assert not stopping.is_alive()
    assert not any(thread.is_alive() for thread in engine._threads)
    assert isinstance(engine.submit(ask(2)).exception(SOON), EngineError)


def test_a_step_that_hangs_is_told_with_those_in_slots(starting: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = starting(slots=2, slot_tokens=50_000, hang_s=0.3)
    futures = [engine.submit(ask(number, max_new_tokens=ENDLESS)) for number in range(2)]
    # a pass of one's prompt and the other's next token may take longer
    wait_until(lambda: any(seq.num_generated > 1 for seq in engine.built.loop._scheduler.running[1:]))
    with Gate(monkeypatch) as gate:
        waits = engine.submit(ask(2))
        assert gate.reached.wait(SOON)
        wait_until(lambda: engine.stall() is not None)
        stall = engine.stall()
        engine.cancel("job-0")
        engine.cancel("job-1")
        engine.cancel("job-2")
        later = engine.stall()

    assert stall is not None
    assert (stall.phase, stall.limit_s) == ("decode", 0.3)
    assert stall.silent_s > 0.3
    assert set(stall.ids) == {"job-0", "job-1"}
    assert later is not None
    assert later.ids == ()
    assert all(isinstance(future.exception(SOON), Cancelled) for future in (*futures, waits))
    wait_until(lambda: engine.stall() is None)


@pytest.mark.parametrize("attention", ["attend", "attend_chunks"], ids=["tower", "chunks"])
def test_a_prefill_may_take_longer_than_a_step(
    starting: Starting, monkeypatch: pytest.MonkeyPatch, attention: str
) -> None:
    engine = starting(hang_s=0.2)
    began, go_on = threading.Event(), threading.Event()
    attend = getattr(reference, attention)

    def waits(*given: Any, **how: Any) -> Any:
        began.set()
        assert go_on.wait(SOON)
        return attend(*given, **how)

    monkeypatch.setattr(reference, attention, waits)
    future = engine.submit(ask(0))
    assert began.wait(SOON)
    wait_until(lambda: engine.stall() is not None)
    stall = engine.stall()
    go_on.set()

    assert stall is not None
    assert (stall.phase, stall.limit_s, stall.ids) == ("prefill", 1.0, ("job-0",))
    assert future.result(SOON)


def test_an_engine_without_prompts_neither_hangs_nor_stops_serving(starting: Starting) -> None:
    engine = starting(hang_s=0.1)
    first = engine.submit(ask(0)).result(SOON)
    wait_until(lambda: engine._heartbeats[0].ids == ())
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        assert engine.stall() is None
        time.sleep(0.01)

    assert uncached(engine.submit(ask(0)).result(SOON)) == uncached(first)


def test_an_idle_engine_takes_no_processor_time(starting: Starting) -> None:
    engine = starting()
    assert engine.submit(ask(0)).result(SOON)
    wait_until(lambda: engine._heartbeats[0].ids == ())
    before, since = time.process_time(), time.monotonic()
    while time.monotonic() < since + 0.5:
        time.sleep(0.05)

    assert time.process_time() - before < 0.2


def test_a_prompt_that_is_alone_has_no_company(starting: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = starting(slots=4)
    rows: list[set[str]] = []
    attend_paged, attend_chunks = reference.attend_paged, reference.attend_chunks

    def note(ids: tuple[str, ...]) -> None:
        rows.append(set(ids))

    def watched(*given: Any) -> None:
        note(engine._heartbeats[0].ids)
        attend_paged(*given)

    def watched_chunks(*given: Any) -> None:
        note(engine._heartbeats[0].ids)
        attend_chunks(*given)

    monkeypatch.setattr(reference, "attend_paged", watched)
    monkeypatch.setattr(reference, "attend_chunks", watched_chunks)
    prompts = [ask(number, alone=number % 4 == 0, lane=("interactive", "bulk")[number % 2]) for number in range(12)]

    assert len(answers(engine, prompts)) == 12
    alone = {prompt.id for prompt in prompts if prompt.alone}
    # the prompts of a beat are those in slots
    assert [ids for ids in rows if ids & alone and len(ids) > 1] == []
    assert alone <= set().union(*rows)
    assert max(len(ids) for ids in rows) > 1


def test_interactive_prompts_go_before_bulk(starting: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = starting(slots=1)
    order: list[str] = []
    with Gate(monkeypatch) as gate:
        futures = [engine.submit(ask(0))]
        assert gate.reached.wait(SOON)
        for number, lane in enumerate(("bulk", "bulk", "interactive"), start=1):
            future = engine.submit(ask(number, lane=lane))
            future.add_done_callback(lambda _, lane=lane: order.append(lane))
            futures.append(future)
        wait_until(lambda: len(engine._intake._new) == 3)

    assert all(future.result(SOON) for future in futures)
    wait_until(lambda: len(order) == 3)
    assert order == ["interactive", "bulk", "bulk"]


def test_hundreds_of_short_prompts_are_all_answered_and_the_stats_add_up(starting: Starting) -> None:
    engine = starting(slots=8)
    before = engine.stats()
    prompts = [
        make_prompt(f"{number}", (Turn("user", ("hello " * (number % 7),)),), 1 + number % 5) for number in range(400)
    ]

    made = answers(engine, prompts)
    wait_until(lambda: not engine._heartbeats[0].ids)
    after = engine.stats()

    assert given(after) - given(before) == sum(each.prompt_tokens for each in made)
    discarded = after.answer_tokens - before.answer_tokens - sum(each.completion_tokens - 1 for each in made)
    # who ends by what it says is computed in one pass more
    assert 0 <= discarded <= sum(each.finish_reason == "stop" for each in made)
    assert after.passes - before.passes < after.answer_tokens - before.answer_tokens
    assert after.steps - before.steps <= after.step_tokens - before.step_tokens
    assert after.pass_s > before.pass_s
    assert after.pass_s >= after.longest_pass_s > 0
    assert engine.built.block_manager.num_free == engine.built.block_manager.num_blocks


@caching
def test_the_same_image_asked_about_again_is_seen_once(starting: Starting, dense: Any, prefix_cache: bool) -> None:
    engine = starting(prefix_cache=prefix_cache)
    seen: list[int] = []
    hook = dense.model.model.visual.merger.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    try:
        first = engine.submit(ask(0, "what is it?")).result(SOON)
        again = engine.submit(ask(0, "what is it?")).result(SOON)
        other = engine.submit(ask(0, "and where?")).result(SOON)
    finally:
        hook.remove()

    assert uncached(first) == uncached(again) != uncached(other)
    assert first.text != other.text
    assert len(seen) == 1


@caching
def test_a_image_that_is_cut_over_chunks_is_seen_once_though_nothing_is_kept(
    starting: Starting, dense: Any, prefix_cache: bool
) -> None:
    engine = starting(vision_reuse_mib=0, prefill_tokens=64, prefix_cache=prefix_cache)
    whole = RGBImage.from_pil(Image.effect_noise((256, 256), 80))
    seen: list[int] = []
    hook = dense.model.model.visual.merger.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    try:
        # 64 tokens each
        prompts = [make_prompt(f"{n}", (Turn("user", ("?" * n, whole, whole)),), 4) for n in range(3)]
        one = engine.submit(prompts[0]).result(SOON)
        assert seen == [256]
        assert uncached(answers(engine, prompts)[0]) == uncached(one)
    finally:
        hook.remove()


@pytest.mark.parametrize("attention", ["attend", "attend_chunks", "attend_paged"], ids=["tower", "chunks", "step"])
def test_a_model_that_loads_and_does_not_answer_is_not_ready(
    starting: Starting, monkeypatch: pytest.MonkeyPatch, attention: str
) -> None:
    def breaks(*_: Any, **__: Any) -> Tensor:
        raise ValueError

    monkeypatch.setattr(reference, attention, breaks)

    with pytest.raises(NotReady, match="does not answer"):
        starting()


def test_a_model_that_is_not_there_is_not_ready(tmp_path: Path) -> None:
    engine = ContinuousEngine(EngineSettings(model=str(tmp_path / "nothing")), 4)

    with pytest.raises(NotReady, match="VQA_MODEL"):
        engine.start(lambda error, ids: None)


@caching
def test_a_prompt_whose_activations_are_no_numbers_spoils_nobody_after_it(
    starting: Starting, monkeypatch: pytest.MonkeyPatch, prefix_cache: bool
) -> None:
    # one of 300 tokens takes 19: it runs alone, those after it get its blocks, and find nothing else in the cache
    few_blocks(monkeypatch, 20)
    engine = starting(slots=2, prefill_tokens=512, max_image_tokens=64, prefix_cache=prefix_cache)
    prompts = [ask(0), long(1, 140)]
    alone = [engine.submit(prompt).result(SOON) for prompt in prompts]
    attend_chunks = reference.attend_chunks
    overflown: list[tuple[int, int]] = []

    def overflows(
        q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, starts: Tensor, lengths: Tensor, size: int, out: Tensor
    ) -> None:
        attend_chunks(q, k, v, blocks, starts, lengths, size, out)
        if 300 in lengths:
            overflown.append((len(lengths), len(out)))
            out.fill_(torch.nan)

    monkeypatch.setattr(reference, "attend_chunks", overflows)
    # of other text, so that they share nothing
    texts = ["y" * 281, "z" * 281]
    answers(engine, [make_prompt(text[0], (Turn("user", (text,)),), 4, temperature=1.0) for text in texts])
    # both in each of two layers
    assert overflown == [(1, 300)] * 4

    # in the blocks that those had
    assert answers(engine, prompts) == alone
