"""What the remote engine costs: the bundled model in the worker itself, and behind a gateway and a worker of its own.

The gateway is the server nearest at hand. With it come a second queue and a second decoding of the image, which vLLM
does not have, so the cost of the remote engine alone is lower.
"""

from __future__ import annotations

import statistics
import time

from bench.figures import Row, alternately, rate
from bench.gateway.stage import stage
from bench.media.images import photo
from bench.stage import TINY, worker
from producer import Client, Job
from producer.demo.redis_server import EmbeddedRedis

JOBS, ALONE, REPEATS = 40, 10, 3
QUESTION = "What colour is the circle?"
_SIZE = (160, 120)


def rows() -> list[Row]:
    with (
        stage(VQA_ENGINE="continuous", VQA_MODEL=str(TINY), VQA_SLOTS="16") as far,
        EmbeddedRedis() as server,
        Client(redis_url=server.url) as near,
        worker(near, name="near", VQA_ENGINE="remote", VQA_REMOTE_URLS=far.url),
    ):
        measured = [_Measured(far.client), _Measured(near)]
        for each in measured:
            # the window of the remote engine finds its size
            each.all_at_once()
        rates = alternately(REPEATS, *(each.all_at_once for each in measured))
        alone = alternately(REPEATS, *(each.alone_per_s for each in measured))
    own_ms, remote_ms = (1000 / each.median for each in alone)
    return [
        Row("in the worker, all at once", f"{rates[0]}", f"{JOBS} jobs", "", True),
        Row("remote, all at once", f"{rates[1]}", f"{JOBS} jobs", "", True),
        Row("remote over in the worker, all at once", f"{rates[1].median / rates[0].median:.2f}", "same run", "", True),
        Row("one job at a time", f"{own_ms:.1f} ms, remote {remote_ms:.1f} ms", "median of jobs", "", True),
    ]


class _Measured:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._number = 0

    def all_at_once(self) -> float:
        """Return jobs per second."""
        jobs = [self._job() for _ in range(JOBS)]
        return rate(JOBS, lambda: [self._client.answer(id, 120) for id in self._client.submit_many(jobs)])

    def alone_per_s(self) -> float:
        """Return the reciprocal of the median time of a job, in seconds."""
        times = []
        for _ in range(ALONE):
            job, began = self._job(), time.perf_counter()
            self._client.answer(self._client.submit(job), 60)
            times.append(time.perf_counter() - began)
        return 1 / statistics.median(times)

    def _job(self) -> Job:
        self._number += 1
        # other pixels each time: the remote engine would send the same ones as the same bytes, which are known there
        return Job.about(photo(self._number, *_SIZE), QUESTION, max_new_tokens=8)
