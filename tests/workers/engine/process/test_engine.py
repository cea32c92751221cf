"""An engine in a process of its own is used as one in this process."""

import time
from itertools import count

import pytest
from PIL import Image

from tests.workers.engine.conftest import SOON, make_prompt
from tests.workers.engine.process.conftest import StartFake, until
from vqa.errors import (
    AnswerTooLong,
    Cancelled,
    DeadlineExceeded,
    EngineError,
    InvalidJob,
    NotReady,
    PromptTooLong,
    VQAError,
)
from vqa.images.fit import Fit
from workers.engine.base import Engine, LoadingCrashed, Prompt, Turn
from workers.engine.image import RGBImage
from workers.engine.process.engine import EngineProcess
from workers.engine.process.outbox import Outbox
from workers.engine.stats import HasStats
from workers.engine.video import Video

NUMBERS = count()


def says(*parts: str | RGBImage | Video, id: str = "", **how: object) -> Prompt:
    return make_prompt(id or f"job-{next(NUMBERS)}", (Turn("user", parts),), **how)


def image(colour: str, size: tuple[int, int] = (64, 32)) -> RGBImage:
    return RGBImage.from_pil(Image.new("RGB", size, colour))


def test_what_the_engine_says_of_itself_is_known_once_it_has_started(start_fake: StartFake) -> None:
    engine: Engine = start_fake()
    assert (engine.model, engine.fit, engine.video_fit) == ("fake", Fit(32, 1024, 65_536), None)
    assert engine.stall() is None


def test_an_image_is_held_once_while_prompts_with_it_are_pending(start_fake: StartFake) -> None:
    engine = start_fake()
    engine.submit(says("wait", image("red"), id="holds"))
    answers = [engine.submit(says("?", image("red"))).result(SOON) for _ in range(3)]
    assert {answer.text for answer in answers} == {f"{image('red').digest[:8]}:{64 * 32 * 3}"}
    assert [answer.prompt_tokens for answer in answers] == [1, 1, 1]
    engine.cancel("holds")
    assert engine.submit(says("?", image("red"))).result(SOON).prompt_tokens == 2


def test_images_of_one_digest_and_two_sizes_are_two(start_fake: StartFake) -> None:
    engine = start_fake()
    first = image("red")
    second = RGBImage(32, 64, first.pixels, first.digest)
    assert engine.submit(says("?", first, second, first)).result(SOON).prompt_tokens == 2


def test_frames_of_a_video_arrive(start_fake: StartFake) -> None:
    frames = (image("red"), image("blue"))
    answer = start_fake().submit(says("?", Video(frames, (0.0, 0.5)), image("blue"))).result(SOON)
    assert answer.prompt_tokens == 2


def test_text_is_passed_on_in_order_before_the_answer(start_fake: StartFake) -> None:
    engine, pieces = start_fake(), list[str]()
    engine.submit(says("?", on_text=pieces.append)).result(SOON)
    assert pieces == ["a", "b", "c"]


def test_a_listener_that_fails_fails_its_prompt_alone(start_fake: StartFake) -> None:
    def fail(_: str) -> None:
        raise ValueError

    engine = start_fake()
    listened, other = engine.submit(says("?", on_text=fail)), engine.submit(says("wait", id="other"))
    with pytest.raises(EngineError, match=r"failed on this prompt \(ValueError\)"):
        listened.result(SOON)
    engine.cancel("other")
    with pytest.raises(Cancelled):
        other.result(SOON)


@pytest.mark.parametrize(
    ("asks", "error", "text"),
    [
        ("too long", PromptTooLong, "20 tokens too many"),
        ("no json", AnswerTooLong, "it does not fit"),
        ("bug", EngineError, "the engine failed on this prompt (ValueError)"),
        ("raise", EngineError, "the engine failed on this prompt (ValueError)"),
    ],
    ids=["too-long", "no-json", "bug", "raise"],
)
def test_an_error_of_the_engine_is_raised_here(
    start_fake: StartFake, asks: str, error: type[VQAError], text: str
) -> None:
    engine = start_fake()
    raised = engine.submit(says(asks)).exception(SOON)
    assert (type(raised), str(raised)) == (error, text)
    if isinstance(raised, PromptTooLong):
        assert (raised.excess, raised.limit) == (20, 100)
    assert engine.submit(says("?")).result(SOON).finish_reason == "stop"


def test_half_a_surrogate_pair_is_an_invalid_job_and_its_images_are_released(start_fake: StartFake) -> None:
    engine = start_fake()
    with pytest.raises(InvalidJob, match="surrogate"):
        engine.submit(says("\ud800", image("red"))).result(0)
    assert [engine.submit(says("?", image("red"))).result(SOON).prompt_tokens for _ in range(2)] == [1, 2]


def test_pixels_of_a_failed_prompt_are_released(start_fake: StartFake) -> None:
    engine = start_fake()
    with pytest.raises(InvalidJob):
        engine.submit(says("fail with the pixels", image("red"))).result(SOON)
    until(lambda: engine.submit(says("which pixels are left?")).result(SOON).text == "0")


def test_numbers_may_be_integers(start_fake: StartFake) -> None:
    assert start_fake().submit(says("?", temperature=1, deadline=time.monotonic() // 1 + 1000)).result(SOON)


def test_a_cancelled_prompt_is_cancelled_there_too(start_fake: StartFake) -> None:
    engine = start_fake()
    pending = engine.submit(says("wait", id="goes"))
    engine.cancel("goes")
    engine.cancel("unknown")
    with pytest.raises(Cancelled):
        pending.result(0)
    # which the fake counts as steps
    until(lambda: engine.stats().steps == 1)


def test_a_prompt_fails_when_its_deadline_passes(start_fake: StartFake) -> None:
    engine = start_fake()
    with pytest.raises(DeadlineExceeded):
        engine.submit(says("wait", deadline=time.monotonic() + 0.05)).result(SOON)
    with pytest.raises(DeadlineExceeded):
        engine.submit(says("wait", deadline=time.monotonic() - 1)).result(0)


def test_two_prompts_of_one_id_are_answered_each(start_fake: StartFake) -> None:
    engine = start_fake()
    first, second = (engine.submit(says("?", id="same", attempt=attempt)) for attempt in (1, 2))
    assert (first.result(SOON).completion_tokens, second.result(SOON).completion_tokens) == (1, 2)


def test_what_the_engine_counts_is_read_here(start_fake: StartFake) -> None:
    engine = start_fake()
    assert isinstance(engine, HasStats)
    engine.submit(says("?")).result(SOON)
    until(lambda: engine.stats().passes == 1)
    assert engine.stats().longest_pass_s == 0.5
    engine.forget_longest_pass()
    until(lambda: engine.stats().longest_pass_s == 0)


@pytest.mark.parametrize(
    ("factory", "error", "text"),
    [
        ("not_ready", NotReady, "its weights are nowhere"),
        ("broken", EngineError, "the engine failed to load (TypeError)"),
        ("dying", LoadingCrashed, "the engine's process was killed by SIGKILL before the model was loaded"),
        ("missing", NotReady, "the engine's process exited with status 1 before the model was loaded"),
    ],
)
def test_an_engine_that_cannot_start_says_why(
    make_fake: StartFake, factory: str, error: type[VQAError], text: str
) -> None:
    engine = make_fake(factory)
    with pytest.raises(error) as raised:
        engine.start(lambda error, ids: pytest.fail("no crash"))
    assert str(raised.value) == text


def test_an_engine_whose_process_gets_no_thread_says_so(make_fake: StartFake, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Outbox, "start", fail)
    with pytest.raises(NotReady, match=r"cannot be started: RuntimeError$"):
        make_fake().start(lambda error, ids: pytest.fail("no crash"))


def test_a_prompt_before_the_start_or_after_the_end_fails(make_fake: StartFake, start_fake: StartFake) -> None:
    with pytest.raises(EngineError, match="has not started"):
        make_fake().submit(says("?")).result(0)
    engine = start_fake()
    waits = engine.submit(says("wait"))
    engine.stop()
    for pending in (waits, engine.submit(says("?"))):
        with pytest.raises(EngineError, match="is stopping"):
            pending.result(0)


def test_stopping_ends_the_process(start_fake: StartFake, crashes: list[object]) -> None:
    engine = start_fake()
    assert isinstance(engine, EngineProcess)
    engine.stop()
    engine.stop()
    assert engine.exit_status == 0
    assert not crashes
