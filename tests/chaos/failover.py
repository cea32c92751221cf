"""Jobs that a failover loses, with and without waiting for the replica.

`python -m tests.chaos failover`: under load, kills the master whose replica lags behind, promotes the replica, and
brings the old master back as a replica of the new one.
"""

from __future__ import annotations

import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from producer import Client
from tests.chaos import journal
from tests.chaos.fleet import Fleet
from tests.chaos.guard import Guard
from tests.chaos.jobs import make_case
from tests.proxy import Proxy
from tests.redis_server import RedisServer
from vqa.errors import QueueUnavailable
from vqa.settings import QueueSettings

ROUNDS = 3

_WORKERS = 3
_SUBMITTERS = 40
#: how far the replica is behind, and what a killed master takes with it
_LAG_S = 0.15
#: submitting before the failover, until the old master is back, and after that
_BEFORE_S, _ALONE_S, _AFTER_S = 4.0, 2.0, 4.0
#: limit until all accepted jobs have ended
_REST_S = 60.0


@dataclass
class Result:
    accepted: int
    #: accepted, and unknown afterwards
    lost: int
    #: started in more than one attempt, as their close was lost
    again: int
    #: answered twice, with another answer the second time
    doubled: int
    #: longest call to `submit`
    longest_s: float


def main(rounds: int = ROUNDS) -> int:
    """Measure; return 1 if a job was lost or doubled although producers waited."""
    wrong = 0
    for number in range(rounds):
        for replicas in (0, 1):
            result = _fail_over(Path(tempfile.mkdtemp(prefix="vqa-failover-")), replicas)
            print(
                f"failover {number + 1} of {rounds}, VQA_WAIT_REPLICAS={replicas}: {result.accepted} jobs accepted, "
                f"lost {result.lost}, doubled {result.doubled}, run again {result.again}, "
                f"longest submit {result.longest_s:.1f} s",
                flush=True,
            )
            wrong += replicas and result.lost + result.doubled
    return 1 if wrong else 0


def _fail_over(folder: Path, replicas: int) -> Result:
    with ExitStack() as stack:
        guard = stack.enter_context(Guard())
        master = stack.enter_context(RedisServer(folder / "master", "repl-diskless-sync-delay 0", append_only=True))
        link = stack.enter_context(Proxy(master.port))
        replica = stack.enter_context(RedisServer(folder / "replica", f"replicaof 127.0.0.1 {link.port}"))
        follower = stack.enter_context(Redis(port=replica.port))
        _until_linked(follower)
        path = folder / "journal.jsonl"
        variables = {"VQA_WAIT_REPLICAS": str(replicas), "VQA_ECHO_JOURNAL": str(path), "VQA_SLOTS": "8"}
        fleet = stack.enter_context(Fleet(folder, guard, master.port, [variables] * _WORKERS))
        proxy = stack.enter_context(Proxy(master.port))
        settings = QueueSettings(redis_url=f"redis://127.0.0.1:{proxy.port}/0", wait_replicas=replicas)
        client = stack.enter_context(Client(settings))
        fleet.wait_ready()
        link.slow(_LAG_S)
        load = _Load(client)
        with ThreadPoolExecutor(_SUBMITTERS) as threads:
            for each in range(_SUBMITTERS):
                threads.submit(load.submit, f"f{each}")
            time.sleep(_BEFORE_S)
            master.kill()
            link.cut()
            follower.replicaof("NO", "ONE")
            for each in (proxy, *(worker.proxy for worker in fleet.workers)):
                each.lead_to(replica.port)
            time.sleep(_ALONE_S)
            master.start()
            stack.enter_context(Redis(port=master.port)).replicaof("127.0.0.1", replica.port)
            time.sleep(_AFTER_S)
            load.stopping.set()
        lost, doubled = load.collect()
        runs = journal.read(path)
        again = sum(len(runs.get(id, ())) > 1 for id in load.accepted)
        return Result(len(load.accepted), lost, again, doubled, load.longest_s)


def _until_linked(follower: Redis) -> None:
    until = time.monotonic() + 20
    while follower.info("replication")["master_link_status"] != "up":
        assert time.monotonic() < until, "the replica does not reach its master"
        time.sleep(0.05)


class _Load:
    """Threads that submit one job after the other and note what was accepted, and one that collects outcomes."""

    def __init__(self, client: Client) -> None:
        self.stopping = threading.Event()
        self.longest_s = 0.0
        #: expected answers, by id
        self.accepted: dict[str, str] = {}
        self._client = client

    def submit(self, name: str) -> None:
        number = 0
        while not self.stopping.is_set():
            case = make_case(f"{name}-{number}", "plain", 0.01)
            number += 1
            begun = time.monotonic()
            # as a careful service does: the same job again, until it is accepted
            while not self.stopping.is_set():
                with suppress(QueueUnavailable):
                    self._client.submit(case.job)
                    self.accepted[case.job.id] = case.expect
                    break
            self.longest_s = max(self.longest_s, time.monotonic() - begun)

    def collect(self) -> tuple[int, int]:
        """Return how many jobs have no answer in the end, and how many answers belong to another job."""
        answers = dict(self._client.answers(list(self.accepted), timeout_s=_REST_S))
        lost = [id for id in self.accepted if not hasattr(answers.get(id), "text")]
        texts = {id: answers[id].text for id in self.accepted if id not in lost}
        time.sleep(1)
        # whoever ran one of them again would have overwritten its answer by now
        again = dict(self._client.answers(list(texts), timeout_s=_REST_S))
        doubled = [id for id, text in texts.items() if text != self.accepted[id] or again[id] != answers[id]]
        return len(lost), len(doubled)
