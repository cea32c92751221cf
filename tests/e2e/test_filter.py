"""The word filter in a real worker: answers, streams, reused answers and the gateway."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from producer import Client, Job, QuestionRefused
from tests.e2e.conftest import until
from tests.producer.gateway.gateway_process import GatewayProcess
from tests.redis_server import RedisServer
from tests.worker_process import ROOT, WorkerProcess
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

LABEL = "Made by a machine."
ACTIONS = "soft=mask,brand=flag,hard=refuse"
WAIT_S = 60.0


def echo(question: str) -> str:
    """The digits of the echo engine's answer."""
    return hashlib.sha256(f"{question}\0".encode()).hexdigest()[:16]


#: two questions, whose answers have no other entry
MASKED, REFUSED, CLEAN = "What is masked?", "What is refused?", "What is neither?"
#: of jobs, as logs show them
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: characters 8 to 12 of an answer's digits
WORDS = f"*{echo(MASKED)[8:12]}*\tsoft\n*{echo(REFUSED)[8:12]}*\thard\ncircle\tsoft\nforbidden\thard\nnamed\tbrand\n"


def job(question: str, seconds: float = 0, **fields: Any) -> Job:
    metadata = {"echo_delay_s": str(seconds)}
    return Job(messages=[{"role": "user", "content": question}], metadata=metadata, **{"timeout_s": 90, **fields})


def masked(question: str) -> str:
    digits = echo(question)
    return f"echo:{digits[:8]}████{digits[12:]}"


@dataclass(frozen=True)
class Site:
    client: Client
    worker: WorkerProcess
    words: Path
    journal: Path
    url: str

    def ask(self, question: str, **fields: Any) -> Any:
        return self.client.answer(self.client.submit(job(question, **fields)), timeout_s=WAIT_S)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("filter")
    words = folder / "words.txt"
    words.write_text(WORDS, encoding="utf-8")
    variables = {"VQA_FILTER_LISTS": str(words), "VQA_FILTER_ACTIONS": ACTIONS, "VQA_FILTER_QUESTIONS": "1"}
    variables |= {"VQA_LABEL": LABEL, "VQA_ECHO_JOURNAL": str(folder / "journal")}
    with RedisServer(folder / "redis") as server:
        settings = QueueSettings(redis_url=server.url)
        worker = WorkerProcess(server.url, "worker", folder / "log", **variables)
        gateway = GatewayProcess(server.url, folder / "gateway")
        try:
            with Client(settings) as client, connect(settings) as redis:
                worker.wait_ready(Ledger(redis))
                yield Site(client, worker, words, folder / "journal", gateway.url)
        finally:
            assert gateway.stop() == 0
            assert worker.stop() == 0


def test_answers_are_masked_refused_and_labelled(site: Site) -> None:
    clean, changed, refused = map(site.ask, (CLEAN, MASKED, REFUSED))
    assert (clean.text, clean.filtered, clean.label) == (f"echo:{echo(CLEAN)}\n\n{LABEL}", (), LABEL)
    assert (changed.text, changed.filtered) == (f"{masked(MASKED)}\n\n{LABEL}", ("soft",))
    assert (refused.text, refused.filtered, refused.finish_reason) == ("", ("hard",), "content_filter")
    assert site.ask("Is it named?").filtered == ("brand",)


def test_a_reused_answer_is_filtered_by_the_list_as_it_is_now(site: Site) -> None:
    question = "What is reused?"
    first = site.ask(question, reuse=True)
    assert first.text.startswith(f"echo:{echo(question)}")
    new = site.words.with_suffix(".new")
    new.write_text(f"{WORDS}*{echo(question)[8:12]}*\tsoft\n", encoding="utf-8")
    os.replace(new, site.words)
    answers = []
    until(lambda: answers.append(site.ask(question, reuse=True)) or answers[-1].filtered)
    assert answers[-1].reused
    assert answers[-1].text == f"{masked(question)}\n\n{LABEL}"
    # a thread of its own writes what a worker says
    until(lambda: "word filter: read again: 6 entries" in site.worker.log.read_text())


def test_a_streamed_answer_never_shows_a_word(site: Site) -> None:
    pieces = list(site.client.stream(job(MASKED, 0.6)))
    assert "".join(piece.text for piece in pieces) == f"{masked(MASKED)}\n\n{LABEL}"
    assert len(pieces) > 1
    assert not any(piece.restarted for piece in pieces)


def test_a_stream_ends_before_a_refused_word(site: Site) -> None:
    with site.client.stream(job(REFUSED, 0.6)) as stream:
        pieces = list(stream)
    assert stream.answer is not None
    text = "".join(piece.text for piece in pieces)
    assert stream.answer.text == text == f"echo:{echo(REFUSED)[:8]}\n\n{LABEL}"
    assert (stream.answer.finish_reason, stream.answer.filtered) == ("content_filter", ("hard",))
    assert not any(piece.restarted for piece in pieces)


def test_a_structured_answer_comes_at_its_end_and_is_valid_or_refused(site: Site) -> None:
    form = {"type": "choice", "choices": ["red circle"]}
    with site.client.stream(job("Which?", 0.3, response_format=form)) as stream:
        assert [piece.text for piece in stream] == []
    assert stream.answer is not None
    assert (stream.answer.text, stream.answer.parsed, stream.answer.finish_reason) == ("", None, "content_filter")
    with site.client.stream(job("Which?", 0.3, response_format={"type": "choice", "choices": ["square"]})) as stream:
        assert [piece.text for piece in stream] == ["square"]
    assert stream.answer is not None
    assert (stream.answer.parsed, stream.answer.label) == ("square", LABEL)


def test_a_question_is_refused_before_it_is_computed(site: Site) -> None:
    id = site.client.submit(job("F O R B I D D E N?"))
    with pytest.raises(QuestionRefused, match="not answered: hard") as caught:
        site.client.answer(id, timeout_s=WAIT_S)
    assert "orbidden" not in str(caught.value)
    site.ask(CLEAN)
    assert id not in site.journal.read_text()


def test_the_gateway_answers_as_openai_does(site: Site) -> None:
    def ask(question: str, **fields: Any) -> httpx2.Response:
        body = {"messages": [{"role": "user", "content": question}], **fields}
        return httpx2.post(f"{site.url}/v1/chat/completions", json=body, timeout=WAIT_S)

    refused = ask("forbidden?")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_filter")
    assert refused.json()["error"]["type"] == "invalid_request_error"
    answer = ask(REFUSED).json()
    assert (answer["choices"][0]["finish_reason"], answer["choices"][0]["message"]["content"]) == ("content_filter", "")
    assert (answer["vqa"]["filtered"], answer["vqa"]["label"]) == (["hard"], LABEL)
    lines = [line[6:] for line in ask(MASKED, stream=True).text.splitlines() if line.startswith("data: ")]
    chunks = [json.loads(line) for line in lines[:-1]]
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert text == f"{masked(MASKED)}\n\n{LABEL}"
    assert chunks[-1]["vqa"]["filtered"] == ["soft"]
    lines = [line[6:] for line in ask(REFUSED, stream=True).text.splitlines() if line.startswith("data: ")]
    assert json.loads(lines[-2])["choices"][0]["finish_reason"] == "content_filter"


def test_counts_by_category_are_in_the_list_of_workers(site: Site) -> None:
    site.ask(MASKED)
    until(lambda: site.client.workers()[0].about.get("filtered", {}).get("soft", 0) > 0)


def test_no_word_of_the_list_is_in_the_log(site: Site) -> None:
    # a job's random id may hold a short word
    log = _ID.sub("", site.worker.log.read_text())
    words = [line.split("\t")[0].strip("*") for line in WORDS.splitlines()]
    assert [word for word in words if word in log] == []


def test_a_wrong_list_stops_the_worker_and_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("fine\nsecretword\ttwo words\n")
    environment = {**os.environ, "VQA_FILTER_LISTS": str(tmp_path / "words"), "VQA_ENGINE": "echo", "VQA_CARDS": "cpu"}
    ended = subprocess.run(
        [sys.executable, "-m", "workers"], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S
    )
    assert ended.returncode == 2
    assert f"VQA_FILTER_LISTS: {tmp_path / 'words'}:2: a category" in ended.stderr
    assert "secretword" not in ended.stdout + ended.stderr
