"""The master is killed while its replica lags behind: what a producer was told is accepted, survives if it waited."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis import Redis

from tests.e2e.trouble import Stage, job
from tests.proxy import Proxy
from tests.redis_server import RedisServer
from vqa import QueueUnavailable

#: how far the replica is behind, and what a master that is killed takes with it
LAG_S = 0.15


class Pair:
    """A stage whose Redis has a replica on a slow line; after `fail_over` everybody reaches the replica."""

    def __init__(self, stage: Stage, running: ExitStack, folder: Path) -> None:
        self.stage = stage
        stage.redis.config_set("repl-diskless-sync-delay", 0)
        self._link = running.enter_context(Proxy(stage.server.port))
        lines = ("appendonly no", f"replicaof 127.0.0.1 {self._link.port}")
        self._replica = running.enter_context(RedisServer(folder, *lines))
        self._redis = running.enter_context(Redis(port=self._replica.port))
        until = time.monotonic() + 20
        while self._redis.info("replication")["master_link_status"] != "up":
            assert time.monotonic() < until
            time.sleep(0.05)
        self._link.slow(LAG_S)

    def fail_over(self, lost: Callable[[], object]) -> None:
        """Kill the master once something is `lost`: what it accepts from now on never reaches the replica."""
        self._link.silence()
        time.sleep(LAG_S)
        until = time.monotonic() + 20
        while not lost():
            assert time.monotonic() < until
            time.sleep(0.01)
        self.stage.server.kill()
        self._link.cut()
        self._redis.replicaof("NO", "ONE")
        for proxy in (self.stage.proxy, *(proxy for _, proxy in self.stage.workers.values())):
            proxy.lead_to(self._replica.port)
        self.stage.redis = self._redis


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as running:
        variables = {"VQA_WAIT_REPLICAS": request.param, "VQA_REDIS_TIMEOUT_S": "10"}
        pair = Pair(running.enter_context(Stage(tmp_path, **variables)), running, tmp_path / "replica")
        yield pair
        # before the replica that they use now
        for worker, _ in pair.stage.workers.values():
            worker.stop()


def _submit(pair: Pair, over: threading.Event, accepted: list[str]) -> None:
    """Submit one job after the other until it is over; note the ids of those that were accepted."""
    while not over.is_set():
        one = job()
        try:
            pair.stage.client.submit(one)
        except QueueUnavailable:
            continue
        accepted.append(one.id)


def _submitted_around_a_failover(pair: Pair, loses: bool) -> list[str]:
    """Return what was accepted; if `loses`, something of it after its way to the replica was cut."""
    over, accepted = threading.Event(), list[str]()
    with ThreadPoolExecutor(8) as threads:
        submitting = [threads.submit(_submit, pair, over, accepted) for _ in range(8)]
        time.sleep(1.5)
        before: list[int] = []

        def lost() -> bool:
            # the first look comes after the cut
            before.append(len(accepted))
            return not loses or before[-1] > before[0] + 8

        pair.fail_over(lost)
        time.sleep(1)
        over.set()
        for each in submitting:
            each.result(30)
    return accepted


@pytest.mark.parametrize("pair", ["0"], indirect=True)
def test_a_failover_loses_what_was_accepted_last_if_nobody_waits_for_the_replica(pair: Pair) -> None:
    ids = _submitted_around_a_failover(pair, loses=True)
    states = Counter(state.state for state in pair.stage.client.states(ids).values())
    assert 0 < states["unknown"] < len(ids)


@pytest.mark.parametrize("pair", ["1"], indirect=True)
def test_a_failover_loses_no_accepted_job_if_producers_wait_for_the_replica(pair: Pair) -> None:
    pair.stage.work()
    ids = _submitted_around_a_failover(pair, loses=False)
    assert len(ids) > 8
    # a job whose close was lost runs again
    pair.stage.answered_once(ids, timeout_s=60)
    pair.stage.unharmed()
