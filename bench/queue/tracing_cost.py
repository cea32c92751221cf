"""What traces cost: computing time of a worker and of its client for an echo job, without traces and with them.

Computing time, since other programs of a shared machine change a rate more than traces do. `python -m
bench.queue.tracing_cost` prints it; cases run one after the other, each with processes of its own, in several rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bench.queue.echo_jobs import answer, computed_s
from bench.stage import worker
from producer import Client
from producer.demo.redis_server import EmbeddedRedis
from vqa.tracing.active import start_tracing

JOBS = 1000
REPEATS = 4
#: answered before the clock starts: imports, connections and threads are made
_WARM_UP = 200

#: variables of a case besides the endpoint; None for no traces
CASES: dict[str, dict[str, str] | None] = {
    "no traces": None,
    "1 job in 100": {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"},
    "every job": {"OTEL_TRACES_SAMPLER": "parentbased_always_on"},
}


def job_times(url: str) -> dict[str, float]:
    """Return microseconds of computing time for a job, of a new worker and of this process, and jobs a second."""
    tracing = start_tracing("bench")
    with Client(redis_url=url) as client, worker(client, VQA_ENGINE="echo", VQA_SLOTS="16") as child:
        answer(client, _WARM_UP)
        before, own_before, started = computed_s(child.pid), time.process_time(), time.perf_counter()
        answer(client, JOBS)
        seconds, own = time.perf_counter() - started, time.process_time() - own_before
        told = {"worker": (computed_s(child.pid) - before) / JOBS * 1e6, "client": own / JOBS * 1e6}
    if tracing is not None:
        tracing.stop()
    return told | {"rate": JOBS / seconds}


@contextmanager
def _receiver() -> Iterator[str]:
    """Take what is exported, and forget it; yield where."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _run(url: str, variables: dict[str, str]) -> dict[str, float]:
    environment = {**os.environ, **variables}
    command = [sys.executable, "-m", "bench.queue.tracing_cost", "--case", url]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def main() -> None:
    """Print each case, and what it adds to the first one; the argument is the number of rounds."""
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(job_times(sys.argv[2])))
        return
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CASES}
    with _receiver() as endpoint:
        for _ in range(repeats):
            for name, variables in CASES.items():
                asked = {} if variables is None else {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **variables}
                with EmbeddedRedis() as server:
                    found[name].append(_run(server.url, asked))
                print(name, found[name][-1], file=sys.stderr, flush=True)
    least = {name: {who: min(run[who] for run in runs) for who in ("worker", "client")} for name, runs in found.items()}
    plain = least["no traces"]
    for name, runs in found.items():
        times = ", ".join(
            f"{who} {least[name][who]:.0f} us a job ({least[name][who] - plain[who]:+.0f})"
            for who in ("worker", "client")
        )
        print(f"{name}: {times}; median {statistics.median(run['rate'] for run in runs):.0f} jobs/s")


if __name__ == "__main__":
    main()
