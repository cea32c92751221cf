"""Answers read while a real worker generates them: through losses, restarts and clients that leave."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from producer import AsyncClient, Cancelled, Client, Job, TextPiece
from tests.redis_server import RedisServer
from tests.worker_process import ROOT, TINY, StartWorker, WorkerProcess
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

WAIT_S = 60.0

COMMAND = [sys.executable, "-W", "error", "-m", "producer.cli.main"]


def job(seconds: float = 0, **fields: Any) -> Job:
    metadata = {"echo_delay_s": str(seconds)} | fields.pop("metadata", {})
    return Job(messages=[{"role": "user", "content": "What is it?"}], metadata=metadata, **{"timeout_s": 90, **fields})


@dataclass(frozen=True)
class Site:
    """A Redis of the tests' own, and a worker with one slot that takes four seconds unless a job says otherwise."""

    server: RedisServer
    client: Client
    worker: WorkerProcess

    def end(self, id: str) -> str:
        found = self.client.states([id])[id]
        return (found.error or found.state).partition(":")[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("streaming")
    with RedisServer(folder / "redis", append_only=True) as server:
        settings = QueueSettings(redis_url=server.url)
        worker = WorkerProcess(server.url, "worker", folder / "log", VQA_SLOTS="1", VQA_ECHO_DELAY_S="4")
        try:
            with Client(settings) as client, connect(settings) as redis:
                worker.wait_ready(Ledger(redis))
                yield Site(server, client, worker)
        finally:
            assert worker.stop() == 0


def since_restart(pieces: list[TextPiece]) -> str:
    last = max((number for number, piece in enumerate(pieces) if piece.restarted), default=0)
    return "".join(piece.text for piece in pieces[last:])


def test_pieces_come_while_the_answer_is_generated(site: Site) -> None:
    with site.client.stream(job(4)) as stream:
        began = time.monotonic()
        pieces = [(time.monotonic() - began, piece.text) for piece in stream]
    assert stream.answer is not None
    assert "".join(text for _, text in pieces) == stream.answer.text
    assert [len(text) for _, text in pieces] == [len("echo:"), 4, 4, 4, 4]
    # the engine makes one every second
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(pieces)]
    assert min(gaps) > 0.03
    assert stream.answer.timings.engine_s >= 4


def test_a_job_that_nobody_streams_writes_no_text(site: Site) -> None:
    with connect(QueueSettings(redis_url=site.server.url)) as redis:
        redis.config_resetstat()
        site.client.answer(site.client.submit(job(0.1)))
        assert "cmdstat_xadd" not in redis.info("commandstats")
        list(site.client.stream(job(0.1)))
        assert redis.info("commandstats")["cmdstat_xadd"]["calls"] >= 2


def test_who_leaves_early_frees_the_slot(site: Site) -> None:
    left = job(80)
    for _ in site.client.stream(left):
        break
    began = time.monotonic()
    site.client.answer(site.client.submit(job()), timeout_s=WAIT_S)
    # the answer waits for the only slot
    site.client.answer(site.client.submit(job(0.01)), timeout_s=WAIT_S)
    assert time.monotonic() - began < 10
    assert site.end(left.id) == "Cancelled"


def test_an_async_task_that_is_cancelled_frees_the_slot(site: Site) -> None:
    left = job(80)

    async def main() -> None:
        async with AsyncClient(site.client.settings) as client:
            seen = asyncio.Event()

            async def read() -> None:
                async for _ in client.stream(left):
                    seen.set()

            reading = asyncio.ensure_future(read())
            await asyncio.wait_for(seen.wait(), WAIT_S)
            reading.cancel()
            await client.answer(await client.submit(job(0.01)), timeout_s=WAIT_S)

    asyncio.run(main())
    assert site.end(left.id) == "Cancelled"


def test_reused_and_structured_answers_are_streamed(site: Site) -> None:
    first = list(site.client.stream(job(0.1, reuse=True)))
    again = site.client.stream(job(0.1, reuse=True))
    assert [piece.text for piece in again] == [since_restart(first)]
    assert again.answer is not None
    assert again.answer.reused
    form = {"type": "choice", "choices": ["a red circle", "a blue square"]}
    chosen = site.client.stream(job(0.1, response_format=form))
    text = since_restart(list(chosen))
    assert chosen.answer is not None
    assert text == chosen.answer.text == chosen.answer.parsed


def test_a_restart_of_redis_during_a_stream_loses_nothing(site: Site) -> None:
    with site.client.stream(job(2)) as stream:
        pieces = [next(stream)]
        site.server.kill()
        time.sleep(0.3)
        site.server.start()
        pieces += stream
    assert stream.answer is not None
    assert since_restart(pieces) == stream.answer.text
    assert stream.answer.attempt == 1


def test_a_full_redis_loses_pieces_and_not_the_answer(site: Site) -> None:
    with connect(QueueSettings(redis_url=site.server.url)) as redis, site.client.stream(job(8)) as stream:
        # the second comes two seconds later
        pieces = [next(stream)]
        redis.config_set("maxmemory", "1")
        pieces += stream
        redis.config_set("maxmemory", "0")
    assert stream.answer is not None
    assert since_restart(pieces) == stream.answer.text
    assert len(pieces) == 2
    assert len(list(site.client.stream(job(2)))) > 2


def test_the_bundled_model_streams_and_stops_within_a_step(client: Client, start_worker: StartWorker) -> None:
    start_worker(VQA_ENGINE="continuous", VQA_MODEL=str(TINY), VQA_SLOTS="1")
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "minLength": 150, "maxLength": 150}},
        "required": ["a"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "long", "schema": {**schema, "additionalProperties": False}}}
    image = Image.new("RGB", (64, 64), "red")
    long = Job.about(image, "What is it?", response_format=form, max_new_tokens=700, timeout_s=90)

    with client.stream(long) as stream:
        began = time.monotonic()
        pieces = list(stream)
        whole_s = time.monotonic() - began
    assert stream.answer is not None
    assert "".join(piece.text for piece in pieces) == stream.answer.text
    assert len(pieces) > 5
    assert not any(piece.restarted for piece in pieces)

    for _ in client.stream(long.model_copy(update={"id": "left"})):
        break
    began = time.monotonic()
    assert client.ask(image, "What is the colour?", max_new_tokens=4, timeout_s=60).text
    assert time.monotonic() - began < whole_s / 2
    with pytest.raises(Cancelled):
        client.answer("left")


@pytest.fixture
def image(tmp_path: Path) -> str:
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "teal.png")
    return str(tmp_path / "teal.png")


def _ask(url: str, *arguments: str) -> subprocess.Popen[str]:
    """The command, streaming."""
    environment = os.environ | {"VQA_REDIS_URL": url, "PYTHONPATH": str(ROOT)}
    command, pipe = [*COMMAND, "ask", *arguments, "What is it?", "--stream"], subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def _begins(asking: subprocess.Popen[str]) -> bool:
    """Read what the echo engine says first; return whether more is to come."""
    assert asking.stdout is not None
    return asking.stdout.read(len("echo:")) == "echo:" and asking.poll() is None


def test_a_retry_after_a_killed_worker_begins_anew_and_says_so(
    client: Client, start_worker: StartWorker, image: str
) -> None:
    lost = start_worker("lost", VQA_LEASE_S="1", VQA_ECHO_DELAY_S="60")
    with _ask(client.settings.redis_url, image) as asking, client.stream(job(60)) as stream:
        assert next(stream) == TextPiece("echo:", 1)
        assert _begins(asking)
        lost.kill()
        start_worker("other", VQA_LEASE_S="1", VQA_ECHO_DELAY_S="0.1")
        # the retry is as slow, so that it is seen before its answer
        assert next(stream) == TextPiece("echo:", 2, restarted=True)
        rest, errors = asking.communicate(timeout=WAIT_S)
    assert errors == "vqa: the job runs again; its answer begins anew\n"
    text = client.ask(image, "What is it?").text
    assert (asking.returncode, rest) == (0, f"\n{text}\n")


def test_the_command_prints_the_pieces_as_they_come(site: Site, image: str) -> None:
    with _ask(site.server.url, image) as asking:
        assert _begins(asking)
        rest, errors = asking.communicate(timeout=WAIT_S)
    assert (asking.returncode, errors) == (0, "")
    assert f"echo:{rest}" == site.client.ask(image, "What is it?").text + "\n"


def test_ctrl_c_cancels_the_commands_job(site: Site, image: str) -> None:
    with _ask(site.server.url, image, "--timeout", "50") as asking:
        assert _begins(asking)
        # as Ctrl-C
        asking.send_signal(signal.SIGINT)
        _, errors = asking.communicate(timeout=WAIT_S)
    assert (asking.returncode, errors) == (130, "")
    assert set(site.client.counts()["interactive"].values()) == {0}


def test_the_command_does_not_print_json_in_pieces(image: str) -> None:
    with _ask("redis://127.0.0.1:1/0", image, "--json") as asking:
        _, errors = asking.communicate(timeout=WAIT_S)
    assert asking.returncode == 2
    assert "--json" in errors
