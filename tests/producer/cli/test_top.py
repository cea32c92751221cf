"""`vqa top` as people watch it: on a terminal, in a pipe, and while Redis is away."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from producer import Client, Job
from producer.monitor.queue_reader import QueueReader
from tests.producer.conftest import COMMAND, Vqa, wait_until
from tests.redis_server import RedisServer
from tests.worker_process import StartWorker
from vqa.settings import QueueSettings

WAIT_S = 60.0
SECRET = "the-secret-question"
WORDS = [{"role": "user", "content": SECRET}]
LEAVES_SCREEN = "\x1b[?1049l"


class Terminal:
    """`vqa top` on a terminal of so many columns."""

    def __init__(self, redis_url: str, columns: int, log: Path) -> None:
        self._own, self._its = pty.openpty()
        fcntl.ioctl(self._its, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        self._before = termios.tcgetattr(self._its)
        self.text = ""
        # which would count for more than the terminal
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [*COMMAND, "top", "--interval", "0.2"],
                stdin=self._its,
                stdout=self._its,
                stderr=errors,
                env=environment | {"VQA_REDIS_URL": redis_url, "TERM": "xterm"},
            )

    def read(self, seconds: float) -> None:
        if select.select([self._own], [], [], seconds)[0]:
            self.text += os.read(self._own, 65_536).decode("utf-8", "replace")

    def until(self, shown: str, without: str = "\0") -> None:
        """Read on until a frame shows the one text and not the other."""
        self.text, end = "", time.monotonic() + WAIT_S
        while not any(shown in frame and without not in frame for frame in self.text.split("\x1b[H")[1:]):
            assert time.monotonic() < end, self.text
            assert self._process.poll() is None, self.text
            self.read(0.2)

    def interrupt(self) -> int:
        self._process.send_signal(signal.SIGINT)
        while self._process.poll() is None:
            self.read(0.05)
        self.read(0.2)
        assert termios.tcgetattr(self._its) == self._before
        return self._process.returncode

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._own)
        os.close(self._its)


@contextmanager
def terminal(redis_url: str, log: Path, columns: int) -> Iterator[Terminal]:
    opened = Terminal(redis_url, columns, log)
    try:
        yield opened
    finally:
        opened.close()


def test_one_frame_shows_workers_lanes_batches_with_their_ends_and_errors(
    client: Client, vqa: Vqa, start_worker: StartWorker
) -> None:
    start_worker("card0", VQA_SLOTS="4", VQA_SERVED_NAME="chat,other", VQA_LEASE_S="1")
    bad = client.submit_many(Job(messages=WORDS, metadata={"echo_fail": "BadImage"}) for _ in range(3))
    lost = {"metadata": {"echo_fail": "EngineError"}, "retry": {"attempts": 1}}
    given_up = client.submit(Job(messages=WORDS, **lost))
    assert len(dict(client.answers([*bad, given_up], timeout_s=WAIT_S))) == 4
    quick = client.batches.create([Job(id=f"quick-{n}", messages=WORDS) for n in range(20)], tenant="acme")
    list(quick.results(timeout_s=WAIT_S))
    held = {"metadata": {"echo_delay_s": "100"}, "timeout_s": 200}
    slow = client.batches.create([Job(id=f"slow-{n}", messages=WORDS, **held) for n in range(30)], tenant="acme")
    asked = client.submit_many(Job(messages=WORDS, model="chat", **held) for _ in range(20))
    # some jobs more than slots
    wait_until(lambda: [each.about.get("leased") for each in client.workers()] == [6], "all threads hold jobs", WAIT_S)

    shown = vqa("top", "--once")
    assert (shown.returncode, shown.stderr) == (0, "")
    text = shown.stdout
    assert re.search(r"^card0@\S+ +echo +4/4 +6 +\d+\.\d$", text, re.M), text
    [bulk] = re.findall(r"^bulk +(\d+) +(\d+) +(\d+) +0 +\d+ s +\d", text, re.M)
    [chat] = re.findall(r"^interactive chat +0 +(\d+) +(\d+) +0 +\d+ s +\d", text, re.M)
    assert (sum(map(int, bulk)), sum(map(int, chat)), int(bulk[-1]) + int(chat[-1])) == (30, 20, 6)
    # nothing to see of that model
    assert "other" not in text
    assert re.search(rf"^{slow.id} +acme +0% +30 +0 +(\d\d:\d\d|end unknown)", text, re.M), text
    assert re.search(rf"^{quick.id} +acme +100% +20 +0 +completed$", text, re.M), text
    assert "errors in 5 min: bad_image 3, job_given_up 1\n" in text
    assert "dead letters: 1; see `vqa dlq list`" in text
    assert SECRET not in text
    assert "\x1b" not in text
    # so that the worker can end
    client.batches.cancel(slow.id)
    assert all(map(client.cancel, asked))


def test_a_refresh_is_a_few_commands_that_look_for_no_keys(
    redis: Redis, client: Client, queue_settings: QueueSettings
) -> None:
    client.submit_many(Job(messages=WORDS, lane="bulk", tenant=f"tenant-{n}") for n in range(10))
    reader = QueueReader(redis, queue_settings.lease_s)
    reader.first()
    redis.config_resetstat()
    view = reader.read()
    stats = redis.info("commandstats")
    assert sum(queue.jobs["queued"] + queue.jobs["waiting"] for queue in view.queues) == 10
    calls = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
    assert sum(calls.values()) < 60, calls
    assert not {"keys", "scan", "sscan", "hscan", "zscan"} & calls.keys()


def test_on_a_narrow_terminal_it_goes_on_after_an_outage_and_leaves_all_as_it_was(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with RedisServer(tmp_path / "redis") as server, terminal(server.url, errors, columns=40) as shown:
        shown.until("dead letters: 0")
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.text)
        assert max(map(len, plain.splitlines())) <= 40
        server.kill()
        shown.until("does not answer")
        server.start()
        shown.until("dead letters: 0", without="does not answer")
        assert shown.interrupt() == 130
        assert shown.text.rstrip().endswith(LEAVES_SCREEN)
    assert errors.read_text() == ""


def test_one_frame_without_redis_is_an_error_of_one_line(vqa: Vqa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQA_REDIS_TIMEOUT_S", "0.5")
    ended = vqa("top", "--once", "--redis-url", "redis://127.0.0.1:1/0")
    assert ended.returncode == 75
    assert re.fullmatch(r"vqa: QueueUnavailable: Redis at 127.0.0.1:1 does not answer .*\n", ended.stderr), ended.stderr
