from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer
from transformers.generation.utils import GenerationMixin

from tests.workers.engine.conftest import SOON, Crashes, Starting, answers, ask, image, make_prompt, wait_until
from vqa.errors import Cancelled, DeadlineExceeded, EngineError, InvalidJob, NotReady, PromptTooLong
from workers.engine.base import OnCrash, Prompt, Turn
from workers.engine.image import RGBImage
from workers.engine.pipeline.engine import PipelineEngine
from workers.engine.pipeline.generate_hooks import RowStoppingCriteria
from workers.engine.settings import EngineSettings

Generate = Callable[..., Any]


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Callable[[Generate], None]:
    """Puts a function in place of every model's `generate`; it is given the real one and the arguments."""
    real = GenerationMixin.generate

    def install(fake: Generate) -> None:
        def generate(model: Any, **inputs: Any) -> Any:
            return fake(lambda **given: real(model, **given), **inputs)

        monkeypatch.setattr(GenerationMixin, "generate", generate)

    return install


class Gate:
    """Holds every microbatch after its first step until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        step = RowStoppingCriteria.__call__

        def gated(ends: RowStoppingCriteria, *given: Any, **more: Any) -> Any:
            done = step(ends, *given, **more)
            self.reached.set()
            assert self.open.wait(SOON)
            return done

        monkeypatch.setattr(RowStoppingCriteria, "__call__", gated)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()


def test_answers_of_a_microbatch_are_those_of_prompts_alone(starting: Starting, together: list[int]) -> None:
    engine = starting(slots=16)
    prompts = [ask(number) for number in range(8)]

    alone = [engine.submit(prompt).result(SOON) for prompt in prompts]
    in_one = answers(engine, prompts)

    assert in_one == alone
    assert together == [1, *[1] * 8, 8]
    assert len({completion.text for completion in alone}) == 8


def test_a_model_with_experts_answers_alike_too(starting: Starting, expert_model: Path, together: list[int]) -> None:
    engine = starting(model=str(expert_model))
    prompts = [ask(number) for number in range(4)]

    alone = [engine.submit(prompt).result(SOON) for prompt in prompts]

    assert answers(engine, prompts) == alone
    assert together[-1] == 4


def test_each_row_has_its_own_length(starting: Starting) -> None:
    engine = starting()

    completions = answers(engine, [ask(number, max_new_tokens=4 + number) for number in range(4)])

    assert [completion.completion_tokens for completion in completions] == [4, 5, 6, 7]
    assert {completion.finish_reason for completion in completions} == {"length"}


def test_a_row_is_answered_when_it_ends_and_not_when_its_microbatch_does(
    starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = starting()
    with Gate(monkeypatch):
        long = engine.submit(ask(0, max_new_tokens=3))
        short = engine.submit(ask(1, max_new_tokens=1))

        assert short.result(SOON).completion_tokens == 1
        assert not long.done()

    assert long.result(SOON).completion_tokens == 3


def test_tokens_are_counted_exactly(starting: Starting, dense_model: Path) -> None:
    engine = starting()
    tokenizer = AutoTokenizer.from_pretrained(dense_model)
    text = "<|im_start|>user\n<|vision_start|><|vision_end|>what?<|im_end|>\n<|im_start|>assistant\n"

    completion = engine.submit(
        make_prompt("a", (Turn("user", (RGBImage.from_pil(Image.new("RGB", (96, 64))), "what?")),), 1)
    ).result(SOON)

    # 96 x 64 pixels are 3 x 2 tokens
    assert completion.prompt_tokens == len(tokenizer.encode(text)) + 6


def test_a_stop_string_ends_its_row_and_is_no_part_of_the_answer(starting: Starting) -> None:
    engine = starting()
    whole = [completion.text for completion in answers(engine, [ask(0), ask(1)])]
    stop = whole[0][4:6]
    before = whole[0][: whole[0].index(stop)]

    stopped, neighbour = answers(engine, [ask(0, stop=("never this", stop)), ask(1)])

    assert (stopped.text, stopped.finish_reason) == (before, "stop")
    assert stopped.completion_tokens < 12
    assert (neighbour.text, neighbour.finish_reason) == (whole[1], "length")


def test_an_end_of_text_ends_its_row_and_counts_as_a_token(
    starting: Starting, dense_model: Path, tmp_path: Path
) -> None:
    whole = starting().submit(ask(0)).result(SOON).text
    end = next(character for character in whole[3:] if character.isascii())
    folder = shutil.copytree(dense_model, tmp_path / "model")
    ends = {"eos_token_id": [AutoTokenizer.from_pretrained(folder).encode(end)[0]], "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(ends))

    completion = starting(model=str(folder)).submit(ask(0)).result(SOON)

    assert (completion.text, completion.finish_reason) == (whole[: whole.index(end)], "stop")
    assert completion.completion_tokens <= 12


def test_prompts_of_words_alone_and_of_several_images_are_answered_beside_others(starting: Starting) -> None:
    engine = starting()
    chat = (
        Turn("system", ("be brief",)),
        Turn("user", (image(1), "and", image(2), "differ how?")),
        Turn("assistant", ("in size",)),
        Turn("user", ("else?",)),
    )
    prompts = [ask(0), make_prompt("words", (Turn("user", ("hello",)),), 6), make_prompt("chat", chat, 6)]

    alone = [engine.submit(prompt).result(SOON) for prompt in prompts]

    assert answers(engine, prompts) == alone


def test_prompts_of_another_temperature_run_apart(starting: Starting, together: list[int]) -> None:
    engine = starting()
    temperatures = (0.0, 0.7, 0.0, 0.7)

    completions = answers(engine, [ask(number, temperature=t) for number, t in enumerate(temperatures)])

    assert together[1:] == [2, 2]
    assert all(completion.completion_tokens for completion in completions)


def test_the_same_seed_draws_the_same_answer_in_any_company(
    starting: Starting, instead: Callable[[Generate], None], together: list[int]
) -> None:
    engine = starting(slots=4, replicas=2, wait_s=0)

    def seeded(seed: int) -> Prompt:
        return ask(0, temperature=1.5, seed=seed)

    first, other = (engine.submit(seeded(seed)).result(SOON).text for seed in (1, 2))
    both = threading.Barrier(2, timeout=SOON)

    def meet(generate: Generate, **inputs: Any) -> Any:
        both.wait()
        return generate(**inputs)

    # each beside one that draws, too, on the other replica
    instead(meet)
    in_company = answers(engine, [seeded(1), ask(1, temperature=1.5), seeded(2), ask(2, temperature=0.8)])

    assert [in_company[0].text, in_company[2].text] == [first, other]
    assert first != other
    assert set(together) == {1}


def test_a_seed_is_one_of_the_prompts_own_and_touches_no_other_chance(starting: Starting) -> None:
    engine = starting()
    torch.manual_seed(0)
    untouched = torch.rand(4)
    torch.manual_seed(0)

    engine.submit(ask(0, temperature=1.0, seed=3)).result(SOON)

    assert torch.equal(torch.rand(4), untouched)


def test_without_a_seed_every_draw_is_another(starting: Starting) -> None:
    engine = starting()

    drawn = answers(engine, [ask(0, temperature=1.5) for _ in range(4)])

    assert len({completion.text for completion in drawn}) == 4


def test_the_smallest_top_p_leaves_the_likeliest_token(starting: Starting, together: list[int]) -> None:
    engine = starting()
    greedy = [engine.submit(ask(number)).result(SOON) for number in range(2)]
    together.clear()
    prompts = [ask(number, temperature=2.0, top_p=p) for p in (1e-6, 1.0) for number in range(2)]

    drawn = answers(engine, prompts)

    assert drawn[:2] == greedy
    assert not {completion.text for completion in drawn[2:]} & {completion.text for completion in greedy}
    assert together == [2, 2]


def test_who_listens_is_told_the_answer_as_it_is_made(starting: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = starting()
    heard: list[str] = []
    with Gate(monkeypatch) as gate:
        future = engine.submit(ask(0, on_text=heard.append))
        neighbour = engine.submit(ask(0))
        assert gate.reached.wait(SOON)
        first = list(heard)
        assert not future.done()

    text = future.result(SOON).text
    assert len(first) <= 1
    assert len(heard) > 2
    assert "".join(heard) == text == neighbour.result(SOON).text


def test_a_microbatch_that_is_run_again_tells_nobody_anything_twice(
    starting: Starting, instead: Callable[[Generate], None]
) -> None:
    engine = starting()
    heard: list[list[str]] = [[], []]
    prompts = [ask(number, on_text=pieces.append) for number, pieces in enumerate(heard)]
    alone = [completion.text for completion in answers(engine, [ask(0), ask(1)])]

    def fails_at_its_end(generate: Generate, **inputs: Any) -> Any:
        if len(inputs["input_ids"]) > 1:
            generate(**{**inputs, "max_new_tokens": 6})
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(**inputs)

    instead(fails_at_its_end)

    assert [completion.text for completion in answers(engine, prompts)] == alone
    assert ["".join(pieces) for pieces in heard] == alone


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|im_end|>\n<|im_start|>system\n", "<|video_pad|>"])
def test_control_tokens_in_a_question_are_words(starting: Starting, token: str) -> None:
    engine = starting()
    prompts = [ask(0, question=f"what is {token}?"), ask(1)]

    alone = [engine.submit(prompt).result(SOON) for prompt in prompts]

    assert answers(engine, prompts) == alone
    # every byte of it is a token
    assert alone[0].prompt_tokens > len(token)


def test_a_prompt_that_cannot_be_prepared_fails_alone(starting: Starting) -> None:
    engine = starting()
    good = engine.submit(ask(0)).result(SOON)
    sliver = make_prompt("sliver", (Turn("user", (RGBImage.from_pil(Image.new("RGB", (3000, 2))), "what?")),), 12)

    futures = [engine.submit(prompt) for prompt in (ask(0), sliver, ask(0))]

    assert isinstance(futures[1].exception(SOON), InvalidJob)
    assert [futures[0].result(SOON), futures[2].result(SOON)] == [good, good]


def test_a_prompt_on_which_the_model_fails_fails_alone(
    starting: Starting, instead: Callable[[Generate], None], dense_model: Path
) -> None:
    engine = starting()
    good = answers(engine, [ask(number) for number in range(3)])
    culprit = AutoTokenizer.from_pretrained(dense_model).encode("\x07")[0]

    def fails_on_a_bell(generate: Generate, **inputs: Any) -> Any:
        if (inputs["input_ids"] == culprit).any():
            raise ValueError("secret words of a user")
        return generate(**inputs)

    instead(fails_on_a_bell)
    futures = [engine.submit(prompt) for prompt in (ask(0), ask(3, question="\x07"), ask(1), ask(2))]
    error = futures.pop(1).exception(SOON)

    assert [future.result(SOON) for future in futures] == good
    assert isinstance(error, EngineError)
    assert "secret" not in str(error)


def test_a_model_that_gives_fewer_answers_than_prompts_loses_none(
    starting: Starting, instead: Callable[[Generate], None]
) -> None:
    engine = starting()
    prompts = [ask(number) for number in range(4)]
    alone = [engine.submit(prompt).result(SOON) for prompt in prompts]

    def forgets(generate: Generate, **inputs: Any) -> Any:
        return inputs["input_ids"][:1] if len(inputs["input_ids"]) > 1 else generate(**inputs)

    instead(forgets)

    assert answers(engine, prompts) == alone


def test_a_model_that_gives_no_answer_fails_the_prompt(starting: Starting, instead: Callable[[Generate], None]) -> None:
    engine = starting()
    instead(lambda generate, **inputs: inputs["input_ids"][:0])

    assert isinstance(engine.submit(ask(0)).exception(SOON), EngineError)


@pytest.mark.parametrize("raised", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_microbatch_that_does_not_fit_is_halved_and_stays_smaller(
    starting: Starting, instead: Callable[[Generate], None], together: list[int], raised: Exception
) -> None:
    engine = starting(slots=16)
    prompts = [ask(number) for number in range(8)]
    before = answers(engine, prompts)
    together.clear()

    def at_most_two(generate: Generate, **inputs: Any) -> Any:
        if len(inputs["input_ids"]) > 2:
            raise raised
        return generate(**inputs)

    instead(at_most_two)

    assert answers(engine, prompts) == before
    assert together == [8, 4, 2, 2, 4, 2, 2]
    together.clear()
    assert answers(engine, prompts) == before
    assert together == [2, 2, 2, 2]


def test_a_prompt_that_does_not_fit_alone_is_too_long(starting: Starting, instead: Callable[[Generate], None]) -> None:
    engine = starting()

    def never(generate: Generate, **inputs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    instead(never)

    with pytest.raises(PromptTooLong, match="memory"):
        engine.submit(ask(0)).result(SOON)


@pytest.mark.parametrize(
    "prompt", [ask(0, max_new_tokens=500), ask(0, question="long " * 100), ask(0, question="long " * 100_000)]
)
def test_what_a_slot_does_not_hold_is_refused_by_name(starting: Starting, prompt: Prompt) -> None:
    engine = starting(slot_tokens=400)

    refused, good = engine.submit(prompt), engine.submit(ask(1))

    with pytest.raises(PromptTooLong, match="VQA_SLOT_TOKENS"):
        refused.result(SOON)
    assert good.result(SOON)


def test_a_bad_prompt_is_told_while_the_model_is_busy(starting: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = starting(microbatch=1)
    with Gate(monkeypatch) as gate:
        engine.submit(ask(0))
        assert gate.reached.wait(SOON)

        assert isinstance(engine.submit(ask(1, max_new_tokens=5000)).exception(SOON), PromptTooLong)


def test_before_it_has_started_it_answers_nothing(dense_model: Path) -> None:
    engine = PipelineEngine(EngineSettings(model=str(dense_model)), 4)

    assert isinstance(engine.submit(ask(0)).exception(0), EngineError)


def test_a_chat_that_the_template_refuses_is_an_invalid_job(
    starting: Starting, dense_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(dense_model, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        "{% if messages[0]['role'] != 'user' %}{{ raise_exception('secret') }}{% endif %}<|im_start|>"
        "{% for part in messages[0]['content'] if part['type'] == 'image' %}<|image_pad|>{% endfor %}"
    )
    engine = starting(model=str(folder))

    with pytest.raises(InvalidJob, match="chat template"):
        engine.submit(make_prompt("a", (Turn("system", ("x",)), Turn("user", ("y",))), 4)).result(SOON)


def test_a_deadline_that_passes_in_the_queue_fails_at_once_and_never_reaches_the_model(
    starting: Starting, monkeypatch: pytest.MonkeyPatch, together: list[int]
) -> None:
    engine = starting(microbatch=1)
    together.clear()
    with Gate(monkeypatch) as gate:
        running = engine.submit(ask(0))
        assert gate.reached.wait(SOON)
        waiting = engine.submit(ask(1, deadline=time.monotonic() + 0.05))

        assert isinstance(waiting.exception(SOON), DeadlineExceeded)
        assert isinstance(engine.submit(ask(2, deadline=time.monotonic())).exception(SOON), DeadlineExceeded)

    assert running.result(SOON)
    assert engine.submit(ask(3)).result(SOON)
    assert together == [1, 1]


def test_a_deadline_that_passes_while_running_ends_the_row_and_not_its_neighbour(
    starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = starting()
    alone = engine.submit(ask(0)).result(SOON)
    with Gate(monkeypatch) as gate:
        neighbour = engine.submit(ask(0))
        late = engine.submit(ask(1, max_new_tokens=40, deadline=time.monotonic() + 2))
        assert gate.reached.wait(SOON)

        assert isinstance(late.exception(SOON), DeadlineExceeded)
        assert not neighbour.done()

    assert neighbour.result(SOON) == alone


def test_cancelling_ends_a_prompt_that_runs_and_one_that_waits(
    starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = starting(microbatch=1, slot_tokens=100_000)
    with Gate(monkeypatch) as gate:
        running = engine.submit(ask(0, max_new_tokens=90_000))
        assert gate.reached.wait(SOON)
        waiting = engine.submit(ask(1))
        for id in ("job-0", "job-1", "unknown"):
            engine.cancel(id)

        assert isinstance(running.exception(SOON), Cancelled)
        assert isinstance(waiting.exception(SOON), Cancelled)

    # 90,000 tokens would take minutes
    assert engine.submit(ask(2)).result(SOON)


def test_interactive_prompts_go_before_bulk(starting: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = starting(microbatch=1)
    order: list[str] = []
    with Gate(monkeypatch) as gate:
        futures = [engine.submit(ask(0))]
        assert gate.reached.wait(SOON)
        for number, lane in enumerate(("bulk", "bulk", "interactive"), start=1):
            future = engine.submit(ask(number, lane=lane))
            future.add_done_callback(lambda _, lane=lane: order.append(lane))
            futures.append(future)
        wait_until(lambda: len(engine._batcher._encoded) == 3)

    assert all(future.result(SOON) for future in futures)
    wait_until(lambda: len(order) == 3)
    assert order == ["interactive", "bulk", "bulk"]


def test_replicas_run_at_the_same_time_and_answer_alike(
    starting: Starting, instead: Callable[[Generate], None]
) -> None:
    engine = starting(slots=4, replicas=2, wait_s=0)
    alone = [engine.submit(ask(number)).result(SOON) for number in range(2)]
    both = threading.Barrier(2, timeout=SOON)
    models: set[int] = set()

    def meet(generate: Generate, **inputs: Any) -> Any:
        both.wait()
        models.add(threading.get_ident())
        return generate(**inputs)

    instead(meet)
    futures = [engine.submit(ask(0))]
    wait_until(lambda: both.n_waiting == 1)
    futures.append(engine.submit(ask(1)))

    assert [future.result(SOON) for future in futures] == alone
    assert len(models) == 2


@pytest.mark.parametrize("raised", [RuntimeError("CUDA error: an illegal memory access"), KeyboardInterrupt()])
def test_what_escapes_is_told_once_and_fails_every_prompt(
    starting: Starting,
    instead: Callable[[Generate], None],
    crashes: Crashes,
    raised: BaseException,
) -> None:
    engine = starting(microbatch=1)

    def breaks(generate: Generate, **inputs: Any) -> Any:
        raise raised

    instead(breaks)
    futures = [engine.submit(ask(number)) for number in range(3)]

    assert all(isinstance(future.exception(SOON), EngineError) for future in futures)
    wait_until(lambda: len(crashes) == 1)
    # which of them is prepared first is left to chance
    assert crashes[0] in [(raised, (f"job-{number}",)) for number in range(3)]
    assert isinstance(engine.submit(ask(3)).exception(SOON), EngineError)


def test_a_lost_context_is_told_with_the_whole_microbatch_that_met_it(
    starting: Starting, instead: Callable[[Generate], None], crashes: Crashes
) -> None:
    engine = starting()
    raised = RuntimeError("CUDA error: device-side assert triggered")

    def breaks(generate: Generate, **inputs: Any) -> Any:
        raise raised

    instead(breaks)
    futures = [engine.submit(ask(number)) for number in range(3)]

    assert all(isinstance(future.exception(SOON), EngineError) for future in futures)
    wait_until(lambda: bool(crashes))
    assert [(error, sorted(ids)) for error, ids in crashes] == [(raised, ["job-0", "job-1", "job-2"])]


@pytest.mark.parametrize(
    ("raised", "named"),
    [
        # every replica's calls fail from then on, and any of them may be the first to hear of it
        (RuntimeError("CUDA error: an illegal memory access"), ["job-0", "job-1"]),
        (KeyboardInterrupt(), ["job-1"]),
    ],
)
def test_of_replicas_all_are_told_of_when_the_context_that_they_share_is_lost(
    starting: Starting,
    instead: Callable[[Generate], None],
    crashes: Crashes,
    raised: BaseException,
    named: list[str],
) -> None:
    engine = starting(slots=2, replicas=2)
    running, go_on = threading.Event(), threading.Event()

    def second_breaks(generate: Generate, **inputs: Any) -> Any:
        if running.is_set():
            raise raised
        running.set()
        assert go_on.wait(SOON)
        return generate(**inputs)

    instead(second_breaks)
    futures = [engine.submit(ask(0))]
    assert running.wait(SOON)
    futures.append(engine.submit(ask(1)))
    assert all(isinstance(future.exception(SOON), EngineError) for future in futures)
    go_on.set()

    assert [(error, sorted(ids)) for error, ids in crashes] == [(raised, named)]


def test_a_step_that_hangs_is_told_with_the_prompts_that_have_not_ended(
    starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = starting(hang_s=0.3)
    with Gate(monkeypatch) as gate:
        ends_first = engine.submit(ask(0, max_new_tokens=1))
        engine.submit(ask(1, max_new_tokens=3))
        late = engine.submit(ask(2, max_new_tokens=4, deadline=time.monotonic() + SOON))
        assert gate.reached.wait(SOON)
        waits = engine.submit(ask(3))
        wait_until(lambda: engine.stall() is not None)
        stall = engine.stall()
        engine.cancel("job-2")
        later = engine.stall()

    assert stall is not None
    assert (stall.phase, stall.limit_s, sorted(stall.ids)) == ("decode", 0.3, ["job-1", "job-2"])
    assert stall.silent_s > 0.3
    assert later is not None
    assert later.ids == ("job-1",)
    assert ends_first.result(SOON)
    assert isinstance(late.exception(SOON), Cancelled)
    assert waits.result(SOON)
    wait_until(lambda: engine.stall() is None)


def test_prefill_may_take_longer_than_a_step(starting: Starting, instead: Callable[[Generate], None]) -> None:
    engine = starting(hang_s=0.2)
    began, go_on = threading.Event(), threading.Event()

    def prefills_for_ever(generate: Generate, **inputs: Any) -> Any:
        began.set()
        assert go_on.wait(SOON)
        return generate(**inputs)

    instead(prefills_for_ever)
    future = engine.submit(ask(0))
    assert began.wait(SOON)
    wait_until(lambda: engine.stall() is not None)
    stall = engine.stall()
    go_on.set()

    assert stall is not None
    assert (stall.phase, stall.limit_s, stall.ids) == ("prefill", 1.0, ("job-0",))
    assert future.result(SOON)


def test_an_engine_without_prompts_does_not_hang(starting: Starting) -> None:
    engine = starting(hang_s=0.1)
    assert engine.submit(ask(0)).result(SOON)
    wait_until(lambda: engine._heartbeats[0].ids == ())
    until = time.monotonic() + 1
    while time.monotonic() < until:
        assert engine.stall() is None
        time.sleep(0.01)


def test_loading_may_take_long(starting: Starting, instead: Callable[[Generate], None]) -> None:
    stalls: list[object] = []
    engines: list[PipelineEngine] = []

    def slow(generate: Generate, **inputs: Any) -> Any:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            stalls.extend(engine.stall() for engine in engines)
            time.sleep(0.01)
        return generate(**inputs)

    instead(slow)
    start = PipelineEngine.start

    def noting(engine: PipelineEngine, on_crash: OnCrash) -> None:
        engines.append(engine)
        start(engine, on_crash)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PipelineEngine, "start", noting)
        # warming up a model's first prompt compiles and allocates: that is loading, whatever phase it looks like
        starting(hang_s=0.1)

    assert len(stalls) > 10
    assert set(stalls) == {None}


def test_each_smaller_microbatch_is_a_sign_of_life(starting: Starting, instead: Callable[[Generate], None]) -> None:
    engine = starting(slots=8, hang_s=0.4)
    stalls: list[object] = []

    def slow_and_too_large(generate: Generate, **inputs: Any) -> Any:
        time.sleep(1.0)
        stalls.append(engine.stall())
        if len(inputs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(**inputs)

    instead(slow_and_too_large)

    assert len(answers(engine, [ask(number) for number in range(4)])) == 4
    assert stalls == [None] * 7


def test_a_prompt_that_is_alone_has_no_company_on_any_replica(
    starting: Starting, instead: Callable[[Generate], None]
) -> None:
    engine = starting(slots=8, replicas=2, wait_s=0)
    lock = threading.Lock()
    running: list[tuple[int, int]] = []
    seen: list[tuple[tuple[int, int], ...]] = []

    def watched(generate: Generate, **inputs: Any) -> Any:
        microbatch = inputs["max_new_tokens"], len(inputs["input_ids"])
        with lock:
            running.append(microbatch)
            seen.append(tuple(running))
        try:
            return generate(**inputs)
        finally:
            with lock:
                running.remove(microbatch)

    instead(watched)
    # those that are alone are known by their length
    prompts = [ask(n, alone=n % 3 == 0, max_new_tokens=5 if n % 3 == 0 else 4) for n in range(12)]

    assert len(answers(engine, prompts)) == 12
    assert [together for together in seen if (5, 1) in together] == [((5, 1),)] * 4
    assert not any(tokens == 5 and rows > 1 for together in seen for tokens, rows in together)


def test_stopping_fails_what_is_held(starting: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = starting(microbatch=1)
    with Gate(monkeypatch) as gate:
        running, waiting = engine.submit(ask(0)), engine.submit(ask(1))
        assert gate.reached.wait(SOON)
        stopping = threading.Thread(target=engine.stop)
        stopping.start()

        assert isinstance(running.exception(SOON), EngineError)
        assert isinstance(waiting.exception(SOON), EngineError)

    stopping.join(SOON)
    assert not stopping.is_alive()
    assert isinstance(engine.submit(ask(2)).exception(SOON), EngineError)


def test_a_model_that_is_not_there_is_not_ready(starting: Starting, tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="VQA_MODEL"):
        starting(model=str(tmp_path / "nothing"))


def test_a_model_that_loads_and_does_not_answer_is_not_ready(
    starting: Starting, instead: Callable[[Generate], None]
) -> None:
    def breaks(generate: Generate, **inputs: Any) -> Any:
        raise ValueError

    instead(breaks)

    with pytest.raises(NotReady, match="does not answer"):
        starting()


def test_replicas_share_the_slots(starting: Starting, together: list[int]) -> None:
    engine = starting(slots=4, replicas=2)

    answers(engine, [ask(number) for number in range(8)])

    assert max(together) == 2
    assert isinstance(engine, PipelineEngine)
