"""`python -m bench.queue.bulk`: bulk submission against a plain Celery script with `group(...)` and `.get()`.

Without workers: submitting, then collecting answers that exist already. End to end: `vqa submit` of a file of short
rows with an echo worker, against the script with a worker whose task does nothing. Rivals alternate within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import redis
from celery import Celery, group
from redis import Redis

from bench.figures import Rate, Row
from bench.queue.bare import make_bare_app
from bench.stage import ROOT, process, worker
from bench.watch import Watch, watching
from producer import Client, Job
from producer.demo.redis_server import EmbeddedRedis
from vqa.answer import Answer, Timings, Usage
from vqa.celery import make_app
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Ending
from vqa.results import encode

ROWS = 100_000
#: for the part without workers, which is repeated
ALONE_ROWS = 20_000
REPEATS = 3
ALONE_WANTED = 3.0
_CLOSED_TOGETHER = 500
#: limit for the resident memory of the submitting process, in MiB
RESIDENT_MIB = 300


def jobs(count: int) -> Iterator[Job]:
    """Yield `count` short jobs, all different."""
    for number in range(count):
        yield Job(messages=[{"role": "user", "content": f"What is in image {number}?"}], lane="bulk")


def ours_alone(client: Client, app: Celery, connection: Redis, count: int) -> tuple[float, float]:
    """Return jobs per second submitted, and collected; answering them in between is not timed."""
    connection.flushall()
    made = list(jobs(count))
    started = time.perf_counter()
    ids = client.submit_many(made)
    submitted = time.perf_counter()
    _close_all(connection, app, ids)
    answered = time.perf_counter()
    collected = sum(1 for _ in client.answers(ids))
    ended = time.perf_counter()
    assert collected == count
    return count / (submitted - started), count / (ended - answered)


def _close_all(connection: Redis, app: Celery, ids: Sequence[str]) -> None:
    ledger = Ledger(connection)
    timings = Timings(queued_s=0, media_s=0, engine_s=0, total_s=0)
    usage = Usage(prompt_tokens=1, completion_tokens=1)
    about = {"finish_reason": "stop", "usage": usage, "timings": timings, "model": "none", "worker": "none"}

    def ending(id: str) -> Ending:
        answer = Answer.model_validate({"id": id, "text": "a circle", "attempt": 1, **about})
        return Ending(id, "", encode(app.backend, id, answer), 3600)

    for start in range(0, len(ids), _CLOSED_TOGETHER):
        ledger.close_many(map(ending, ids[start : start + _CLOSED_TOGETHER]))


def rival_alone(url: str, connection: Redis, count: int) -> tuple[float, float]:
    """Measure the same for `group(...)` and `.get()`."""
    connection.flushall()
    app = make_bare_app(url)
    answer = app.tasks["bare.answer"]
    started = time.perf_counter()
    result = group(answer.s(f"What is in image {number}?") for number in range(count)).apply_async()
    submitted = time.perf_counter()
    for each in result.results:
        app.backend.store_result(each.id, "a circle", "SUCCESS")
    answered = time.perf_counter()
    assert len(result.get(disable_sync_subtasks=False)) == count
    ended = time.perf_counter()
    result.forget()
    app.close()
    return count / (submitted - started), count / (ended - answered)


def alone(count: int, repeats: int) -> list[Row]:
    """Measure both rivals without a worker, in turn."""
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    with EmbeddedRedis() as server, Client(redis_url=server.url) as client:
        connection = redis.Redis.from_url(server.url)
        app = make_app(client.settings)
        for _ in range(repeats):
            ours.append(ours_alone(client, app, connection, count))
            theirs.append(rival_alone(server.url, connection, count))
    rival = "group(...) and .get()"
    return [
        Row.ratio(f"{what} {count:,} rows, no worker", *_rates(ours, theirs, part), ALONE_WANTED, rival)
        for part, what in enumerate(("submitting", "collecting"))
    ]


def _rates(ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]], part: int) -> tuple[Rate, Rate]:
    return Rate([run[part] for run in ours]), Rate([run[part] for run in theirs])


def write_rows(path: Path, count: int) -> None:
    """Write a file in OpenAI's batch format."""
    with path.open("w") as file:
        for number in range(count):
            body = {"messages": [{"role": "user", "content": f"What is in image {number}?"}]}
            row = {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(row) + "\n")


@dataclass(frozen=True)
class Whole:
    """A run from the first row to the last answer."""

    rows: int
    seconds: float
    watch: Watch
    #: rows whose answers were in Redis but never reached the script
    missed: int = 0

    def __str__(self) -> str:
        missed = f", missed {self.missed:,} answers that were in Redis" if self.missed else ""
        return (
            f"{self.rows / self.seconds:,.1f}/s, {self.seconds:,.0f} s, script {self.watch.resident_mib:,.0f} MiB, "
            f"Redis {self.watch.redis_mib:,.0f} MiB at most, {self.watch.channels:,} channels{missed}"
        )


def ours_whole(folder: Path, count: int, workers: int) -> Whole:
    """Run `vqa submit` with echo workers and check that every row has one answer."""
    source, out = folder / "rows.jsonl", folder / "answers.jsonl"
    write_rows(source, count)
    with EmbeddedRedis() as server, Client(redis_url=server.url) as client:
        connection = redis.Redis.from_url(server.url)
        with ExitStack() as stack:
            for number in range(workers):
                stack.enter_context(worker(client, name=f"bench{number}", VQA_ENGINE="echo", VQA_SLOTS="16"))
            started = time.perf_counter()
            environment = os.environ | {"VQA_REDIS_URL": server.url}
            command = [sys.executable, "-m", "producer.cli.main", "submit", str(source), "-o", str(out)]
            with subprocess.Popen(command, cwd=ROOT, env=environment) as child, watching(child.pid, connection) as seen:
                status = child.wait()
            seconds = time.perf_counter() - started
    with out.open() as lines:
        ids = [json.loads(line)["custom_id"] for line in lines]
    if status or len(ids) != count or len(set(ids)) != count:
        raise RuntimeError(f"status {status}, {len(ids)} lines, {len(set(ids))} different ids of {count}")
    return Whole(count, seconds, seen)


def rival_whole(count: int) -> Whole:
    """Run the plain script with a worker whose task does nothing."""
    with EmbeddedRedis() as server, process("-m", "bench.queue.bare", server.url):
        connection = redis.Redis.from_url(server.url)
        app = make_bare_app(server.url)
        app.tasks["bare.answer"].delay("ready?").get(timeout=60)
        command = [sys.executable, "-m", "bench.queue.bulk_rival", server.url, str(count)]
        with (
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child,
            watching(child.pid, connection) as seen,
        ):
            assert child.stdout is not None
            result = json.loads(child.stdout.read())
        return Whole(count, result["total_s"], seen, count - result["answers"])


def whole(count: int, against: bool, workers: int = 1) -> list[Row]:
    """Measure end to end."""
    with tempfile.TemporaryDirectory() as folder:
        ours = ours_whole(Path(folder), count, workers)
    memory = ours.watch.resident_mib
    rows = [
        Row(
            f"memory of the script, {count:,} rows",
            f"{memory:,.0f} MiB",
            "",
            f"under {RESIDENT_MIB} MiB",
            memory < RESIDENT_MIB,
        )
    ]
    what = f"`vqa submit` of {count:,} rows, {workers} echo worker{'s'[: workers > 1]}"
    if not against:
        return [Row(what, str(ours), "", "finishes", True), *rows]
    rival = rival_whole(count)
    ratio = rival.seconds / ours.seconds
    return [Row(what, f"{ratio:.2f} = {ours}", f"{rival} group(...).get()", "at least 1", ratio >= 1), *rows]


def rows() -> list[Row]:
    return [*alone(ALONE_ROWS, REPEATS), *whole(ROWS, against=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if a figure falls short."""
    parser = argparse.ArgumentParser(prog="python -m bench.queue.bulk", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="rows end to end (default: %(default)s); 0 for none")
    parser.add_argument(
        "--alone", type=int, default=ALONE_ROWS, help="rows without workers (default: %(default)s); 0 for none"
    )
    parser.add_argument("--repeats", type=int, default=REPEATS, help="runs without workers (default: %(default)s)")
    parser.add_argument("--ours-only", action="store_true", help="end to end without the rival")
    parser.add_argument("--workers", type=int, default=1, help="echo workers; the rival has one (default: %(default)s)")
    options = parser.parse_args(arguments)
    reached = True
    if options.alone:
        reached &= _print(alone(options.alone, options.repeats))
    if options.rows:
        reached &= _print(whole(options.rows, not options.ours_only, options.workers))
    return 0 if reached else 1


def _print(measured: Sequence[Row]) -> bool:
    """Print the rows; return whether all are reached."""
    for row in measured:
        reached = "yes" if row.reached else "SHORT"
        print(f"{row.what}\n    {row.figure}\n    {row.against}\n    {row.wanted}: {reached}", flush=True)
    return all(row.reached for row in measured)


if __name__ == "__main__":
    sys.exit(main())
