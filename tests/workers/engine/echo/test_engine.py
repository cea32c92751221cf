from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.workers.engine.conftest import SOON, Crashes, guided, wait_until
from vqa.errors import AnswerTooLong, Cancelled, DeadlineExceeded, EngineError, InvalidJob, NotReady, TransientError
from vqa.structured_output.grammar import json_grammar, one_of
from workers.engine.base import Prompt, SamplingParams, Turn
from workers.engine.echo.engine import EXIT_STATUS, EchoEngine
from workers.engine.echo.settings import EchoSettings
from workers.engine.factory import make_engine
from workers.engine.image import RGBImage
from workers.engine.settings import EngineSettings


def ask(id: str = "a", question: str = "how many?", /, *, attempt: int = 1, **wishes: Any) -> Prompt:
    known = {name: wishes.pop(name) for name in ("lane", "deadline", "alone", "on_text") if name in wishes}
    turns = (Turn("user", (RGBImage.from_pil(Image.new("RGB", (30, 20))), question)),)
    metadata = {name: str(wish) for name, wish in wishes.items()}
    return Prompt(id, turns, SamplingParams(10), attempt=attempt, metadata=metadata, **known)


@pytest.fixture
def engine(crashes: Crashes) -> Iterator[EchoEngine]:
    engine = EchoEngine(EngineSettings(engine="echo"), slots=2)
    engine.start(lambda error, ids: crashes.append((error, tuple(ids))))
    yield engine
    engine.stop()


def test_the_answer_is_a_hash_of_words_and_sizes(engine: EchoEngine) -> None:
    expected = hashlib.sha256(b"30x20\0how many?\0").hexdigest()[:16]

    completion = engine.submit(ask()).result(0)

    assert completion.text == f"echo:{expected}"
    assert (completion.prompt_tokens, completion.completion_tokens) == (3, 1)


def test_who_listens_is_told_the_answer_word_by_word(engine: EchoEngine) -> None:
    pieces: list[str] = []

    completion = engine.submit(ask(on_text=pieces.append)).result(SOON)

    assert pieces == ["echo:", completion.text.removeprefix("echo:")]


def test_the_pieces_of_an_answer_are_spread_over_its_delay(engine: EchoEngine) -> None:
    pieces: list[tuple[float, str]] = []
    began = time.monotonic()

    engine.submit(ask(on_text=lambda piece: pieces.append((time.monotonic() - began, piece)), echo_delay_s=0.2)).result(
        SOON
    )

    [(first_s, first), *between, (last_s, last)] = pieces
    assert first == "echo:"
    assert first_s < 0.05
    assert [len(piece) for _, piece in between] == [4, 4, 4]
    for (at_s, _), due_s in zip(between, (0.05, 0.1, 0.15), strict=True):
        assert due_s <= at_s < 0.2
    assert last_s >= 0.2
    assert len(last) == 4


@pytest.mark.parametrize("delay_s", [0, 0.02])
def test_in_a_response_format_it_answers_a_short_value(engine: EchoEngine, delay_s: float) -> None:
    pieces: list[str] = []
    schema = '{"type":"object","properties":{"a":{"type":"boolean"},"b":{}},"required":["a"]}'
    params = SamplingParams(80, grammar=json_grammar(schema))
    prompt = replace(ask(on_text=pieces.append, echo_delay_s=delay_s), params=params)

    assert json.loads(engine.submit(prompt).result(SOON).text) == {"a": False}
    assert json.loads("".join(pieces)) == {"a": False}
    assert engine.submit(guided(prompt, one_of(["b", "a"]))).result(SOON).text == "a"


def test_a_value_that_does_not_fit_is_an_error_by_name(engine: EchoEngine) -> None:
    prompt = guided(ask(), one_of(["longer than ten"]))

    with pytest.raises(AnswerTooLong, match="max_new_tokens"):
        engine.submit(prompt).result(SOON)


def test_a_callback_that_fails_fails_its_prompt(engine: EchoEngine) -> None:
    def fails(piece: str) -> None:
        raise ValueError(piece)

    assert isinstance(engine.submit(ask(on_text=fails)).exception(SOON), EngineError)
    assert engine.submit(ask()).result(SOON)


def test_without_a_delay_it_is_there_when_submit_returns_even_with_every_slot_taken(engine: EchoEngine) -> None:
    for id in "bcd":
        engine.submit(ask(id, echo_delay_s=SOON))

    assert engine.submit(ask()).done()


def test_as_many_delays_run_at_once_as_there_are_slots(engine: EchoEngine) -> None:
    started = time.monotonic()
    futures = [engine.submit(ask(str(number), echo_delay_s=0.1)) for number in range(4)]

    assert all(future.result(SOON) for future in futures)
    assert time.monotonic() - started >= 0.2


def test_the_delay_of_a_prompt_that_names_none_is_the_settings() -> None:
    engine = EchoEngine(EngineSettings(engine="echo"), slots=1, echo=EchoSettings(delay_s=0.1, load_s=0.1))
    started = time.monotonic()
    engine.start(lambda error, ids: None)
    assert time.monotonic() - started >= 0.1

    assert engine.submit(ask()).result(SOON)
    assert time.monotonic() - started >= 0.2
    engine.stop()


def test_interactive_prompts_get_the_next_slot(engine: EchoEngine) -> None:
    order: list[str] = []
    for id in "ab":
        engine.submit(ask(id, echo_delay_s=0.05))
    lanes = {"c": "bulk", "d": "bulk", "e": "interactive", "f": "interactive"}
    futures = {id: engine.submit(ask(id, echo_delay_s=0.05, lane=lane)) for id, lane in lanes.items()}
    for id, future in futures.items():
        future.add_done_callback(lambda _, id=id: order.append(id))

    wait_until(lambda: len(order) == 4)
    assert set(order[:2]) == {"e", "f"}


@pytest.mark.parametrize("delay_s", [0, 0.02])
def test_a_job_fails_as_its_metadata_asks(engine: EchoEngine, delay_s: float) -> None:
    future = engine.submit(ask(echo_fail="TransientError", echo_delay_s=delay_s))

    assert type(future.exception(SOON)) is TransientError


def test_it_fails_on_as_many_attempts_as_asked(engine: EchoEngine) -> None:
    wish = {"echo_fail": "EngineError", "echo_fail_attempts": 2}

    errors = [engine.submit(ask(attempt=attempt, **wish)).exception(SOON) for attempt in (1, 2, 3)]

    assert [type(error) for error in errors] == [EngineError, EngineError, type(None)]


@pytest.mark.parametrize("wish", [{"echo_fail": "Nonsense"}, {"echo_delay_s": "x"}, {"echo_fail_attempts": "x"}])
def test_a_wish_that_means_nothing_is_an_invalid_job(engine: EchoEngine, wish: dict[str, str]) -> None:
    with pytest.raises(InvalidJob):
        engine.submit(ask(**wish)).result(SOON)


def test_a_crash_is_told_once_and_fails_what_is_held(engine: EchoEngine, crashes: Crashes) -> None:
    other = engine.submit(ask("b", echo_delay_s=SOON))
    futures = [engine.submit(ask(id, echo_fail="crash")) for id in "cd"]

    assert all(isinstance(future.exception(SOON), EngineError) for future in (other, *futures))
    wait_until(lambda: len(crashes) == 1)
    assert isinstance(engine.submit(ask()).exception(SOON), EngineError)


def test_a_crash_names_its_culprit_and_nobody_else(engine: EchoEngine, crashes: Crashes) -> None:
    engine.submit(ask("innocent", echo_delay_s=SOON))
    engine.submit(ask("culprit", echo_fail="crash", echo_delay_s=0.01))

    wait_until(lambda: [ids for _, ids in crashes] == [("culprit",)])


def hanging(**settings: Any) -> EchoEngine:
    engine = EchoEngine(EngineSettings(engine="echo", hang_s=0.5), slots=2, echo=EchoSettings(**settings))
    engine.start(lambda error, ids: pytest.fail(f"the engine crashed: {error!r}"))
    return engine


def test_a_hang_settles_nothing_more_and_is_told_with_who_is_in_a_slot() -> None:
    engine = hanging()
    culprit = engine.submit(ask("culprit", echo_fail="hang", echo_delay_s=0.05))
    neighbour = engine.submit(ask("neighbour", echo_delay_s=0.2, deadline=time.monotonic() + 0.3))
    engine.submit(ask("waits", echo_delay_s=0.1))
    wait_until(lambda: engine.stall() is not None)
    stall = engine.stall()
    done = (culprit.done(), neighbour.done())
    engine.stop()

    assert stall is not None
    assert (stall.phase, stall.limit_s, sorted(stall.ids)) == ("decode", 0.5, ["culprit", "neighbour"])
    assert stall.silent_s > 0.5
    assert done == (False, False)
    assert isinstance(culprit.exception(SOON), EngineError)


def test_slow_prompts_are_no_hang_and_neither_is_having_none() -> None:
    engine = hanging()
    futures = [engine.submit(ask(id, echo_delay_s=1.2)) for id in "ab"]
    stalls = []
    while not all(future.done() for future in futures):
        stalls.append(engine.stall())
        time.sleep(0.01)
    # longer than it may be silent
    parked_until = time.monotonic() + 1
    while time.monotonic() < parked_until:
        stalls.append(engine.stall())
        time.sleep(0.01)
    engine.stop()

    assert set(stalls) == {None}


def test_a_prompt_that_is_alone_runs_when_all_others_have_ended_and_before_others_begin(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    engine = hanging(journal=journal)
    futures = [engine.submit(ask(id, echo_delay_s=0.1)) for id in "ab"]
    futures.append(engine.submit(ask("alone", echo_delay_s=0.1, alone=True)))
    futures.append(engine.submit(ask("late", echo_delay_s=0.05)))
    wait_until(lambda: '"alone"' in journal.read_text())
    # one without a delay would take no slot
    futures.append(engine.submit(ask("quick")))
    assert all(future.result(SOON) for future in futures)
    engine.stop()

    story = [(line["id"], line["event"]) for line in lines(journal)]
    at = story.index(("alone", "start"))
    assert sorted(story[:at]) == [("a", "end"), ("a", "start"), ("b", "end"), ("b", "start")]
    assert story[at + 1] == ("alone", "end")
    assert {id for id, _ in story[at + 2 :]} == {"late", "quick"}


def lines(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()]


def test_the_journal_says_when_a_prompt_was_in_its_slot(tmp_path: Path) -> None:
    engine = hanging(journal=tmp_path / "journal")
    began = time.monotonic()
    slow, late = engine.submit(ask("slow", echo_delay_s=0.2, attempt=2)), engine.submit(ask("late", echo_delay_s=SOON))
    waits = engine.submit(ask("waits", echo_delay_s=SOON))
    engine.cancel("waits")
    at_once = engine.submit(ask("at once", echo_fail="EngineError"))
    heard = [(at_once.exception(0), time.monotonic()), (slow.result(SOON), time.monotonic())]
    engine.cancel("late")
    heard.append((late.exception(SOON), time.monotonic()))
    assert isinstance(waits.exception(SOON), Cancelled)
    engine.stop()

    written = {(line["id"], line["event"]): line for line in lines(tmp_path / "journal")}
    assert set(written) == {(id, event) for id in ("slow", "late", "at once") for event in ("start", "end")}
    assert {line["pid"] for line in written.values()} == {os.getpid()}
    assert [written["slow", event]["attempt"] for event in ("start", "end")] == [2, 2]
    assert written["slow", "end"]["at"] - written["slow", "start"]["at"] >= 0.2
    # the journal is written before the future is settled, or another worker could begin before this one has ended
    for id, (_, heard_at) in zip(("at once", "slow", "late"), heard, strict=True):
        assert began <= written[id, "start"]["at"] <= written[id, "end"]["at"] <= heard_at


def test_processes_share_a_journal(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from workers.engine.base import Prompt, SamplingParams\n"
        "from workers.engine.echo.engine import EchoEngine\n"
        "from workers.engine.echo.settings import EchoSettings\n"
        "from workers.engine.settings import EngineSettings\n"
        "engine = EchoEngine(EngineSettings(engine='echo'), 1, EchoSettings(journal=sys.argv[1]))\n"
        "for number in range(500):\n"
        "    engine.submit(Prompt(str(number), (), SamplingParams(1)))\n"
        "engine.submit(Prompt('last', (), SamplingParams(1), metadata={'echo_fail': 'exit'}))\n"
    )
    journal = tmp_path / "journal"
    processes = [subprocess.Popen([sys.executable, "-c", program, str(journal)]) for _ in range(2)]

    assert [process.wait(SOON) for process in processes] == [EXIT_STATUS] * 2
    events = [(line["pid"], line["id"], line["event"]) for line in lines(journal)]
    assert len(events) == len(set(events)) == 2 * 1001
    # what ends its process is known to have begun
    assert {(process.pid, "last", "start") for process in processes} <= set(events)


def test_a_journal_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="VQA_ECHO_JOURNAL"):
        EchoEngine(EngineSettings(engine="echo"), 1, EchoSettings(journal=tmp_path))


def test_the_process_ends_where_the_metadata_asks_for_it() -> None:
    program = (
        "from workers.engine.base import Prompt, SamplingParams\n"
        "from workers.engine.echo.engine import EchoEngine\n"
        "from workers.engine.settings import EngineSettings\n"
        "engine = EchoEngine(EngineSettings(engine='echo'), 1)\n"
        "engine.submit(Prompt('a', (), SamplingParams(1), metadata={'echo_fail': 'exit'}))\n"
    )

    assert subprocess.run([sys.executable, "-c", program], timeout=SOON, check=False).returncode == EXIT_STATUS


def test_a_deadline_ends_a_prompt_that_waits_or_is_delayed_and_frees_its_slot(engine: EchoEngine) -> None:
    soon = time.monotonic() + 0.1
    futures = [engine.submit(ask(id, echo_delay_s=SOON, deadline=soon)) for id in "abcd"]

    assert all(isinstance(future.exception(SOON), DeadlineExceeded) for future in futures)
    assert engine.submit(ask("e", echo_delay_s=0.01)).result(SOON)
    assert isinstance(engine.submit(ask(deadline=soon)).exception(0), DeadlineExceeded)


def test_cancelling_frees_the_slot_at_once(engine: EchoEngine) -> None:
    futures = [engine.submit(ask(id, echo_delay_s=SOON)) for id in "abc"]
    for id in ("a", "b", "c", "unknown"):
        engine.cancel(id)

    assert all(isinstance(future.exception(0), Cancelled) for future in futures)
    assert engine.submit(ask("d", echo_delay_s=0.01)).result(SOON)


def test_stopping_fails_what_is_held(engine: EchoEngine) -> None:
    future = engine.submit(ask(echo_delay_s=SOON))
    engine.stop()

    assert isinstance(future.exception(0), EngineError)


def test_what_waits_for_a_slot_when_the_engine_stops_never_enters_one(tmp_path: Path) -> None:
    engine = EchoEngine(EngineSettings(engine="echo"), 1, EchoSettings(journal=tmp_path / "journal"))
    engine.start(lambda error, ids: None)
    futures = [engine.submit(ask(f"job-{number}", echo_delay_s=SOON)) for number in range(3)]
    engine.stop()

    assert all(isinstance(future.exception(0), EngineError) for future in futures)
    assert [line["id"] for line in lines(tmp_path / "journal") if line["event"] == "start"] == ["job-0"]


def test_many_threads_may_submit_at_once(engine: EchoEngine) -> None:
    done: list[bool] = []

    def submit() -> None:
        futures = [engine.submit(ask(f"{threading.get_ident()}-{n}", echo_delay_s=0.001)) for n in range(50)]
        done.extend(bool(future.result(SOON)) for future in futures)

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)

    assert done == [True] * 400


def test_it_needs_no_torch() -> None:
    program = (
        "import sys\n"
        "import workers.media.pool, workers.slots, workers.engine.base\n"
        "from workers.engine.factory import make_engine\n"
        "from workers.engine.settings import EngineSettings\n"
        "make_engine(EngineSettings(engine='echo'), 4)\n"
        "sys.exit(bool({'torch', 'transformers', 'celery'} & sys.modules.keys()))\n"
    )

    assert subprocess.run([sys.executable, "-c", program], timeout=SOON, check=False).returncode == 0


def test_the_catalog_makes_it() -> None:
    assert isinstance(make_engine(EngineSettings(engine="echo"), 4), EchoEngine)
