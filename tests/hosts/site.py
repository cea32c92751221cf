"""Six hosts: Redis with a Sentinel on three, a supervisor with one worker on two, and a desk from which jobs come."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from producer.demo.redis_server import find_server
from tests.chaos import journal
from tests.hosts.network import Network
from tests.redis_server import RedisServer
from tests.worker_process import ROOT
from vqa.ledger.ledger import Ledger

REDIS_HOSTS = ("redis-1", "redis-2", "redis-3")
WORKER_HOSTS = ("one", "two")
DESK = "desk"

#: seconds; for what takes up to ten on an idle machine
WAIT_S = 120.0
LEASE_S = 2.0
SLOTS = 2

_PASSWORD = "s3cret"


def until(condition: Callable[[], object], what: Callable[[], object] = str) -> float:
    """Poll; return the seconds that it took. Fails after WAIT_S, saying `what` was seen."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + WAIT_S, what()
        time.sleep(0.02)
    return time.monotonic() - begun


class HostProcess:
    """A program on a host, and whatever it starts, until it is killed."""

    def __init__(self, within: Sequence[str], command: Sequence[str], log: Path, variables: dict[str, str]) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("VQA_")}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*within, *command],
                env=environment | variables,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                process_group=0,
            )

    def freeze(self) -> None:
        """Stop all of it, so that what it does at this moment can be looked at."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for each in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                each.send_signal(number)

    def kill(self) -> None:
        """End all at once, as a loss of power does; return when nothing of it runs any more."""
        if self.process.poll() is None:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            # the first process of the host ends after all others; the one killed here ends before them
            watched = [os.pidfd_open(int(child)) for child in children]
            self.process.send_signal(signal.SIGKILL)
            for each in watched:
                assert select.select([each], [], [], WAIT_S)[0], "a killed program goes on"
                os.close(each)
        self.process.wait()


class Site:
    """The hosts, with everything running once `with` is entered; `variables` are settings of all of vqa's processes."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self._folder = folder
        self._running = ExitStack()
        self.network = Network(*REDIS_HOSTS, *WORKER_HOSTS, DESK)
        self._variables = {"VQA_LEASE_S": str(LEASE_S), "VQA_WAIT_REPLICAS": "1"}
        self._variables |= variables
        #: Redis and its Sentinel, by host
        self._servers: dict[str, tuple[RedisServer, RedisServer]] = {}
        self._observers: dict[str, Redis] = {}
        self._programs: list[HostProcess] = []
        self._workers: dict[str, HostProcess] = {}
        self._booted_at: dict[str, float] = {}

    def __enter__(self) -> Self:
        with ExitStack() as running:
            running.enter_context(self.network)
            for host in REDIS_HOSTS:
                self._add_redis(host, running)
            running.callback(self._end_programs)
            for redis, _ in self._servers.values():
                running.enter_context(redis)
            until(self._has_replicas, lambda: "the replicas do not reach the master")
            # a Sentinel that starts earlier hears of the replicas ten seconds later
            for _, sentinel in self._servers.values():
                running.enter_context(sentinel)
            for host in WORKER_HOSTS:
                self._start_worker(host)
            until(self.is_whole, lambda: "the Sentinels do not know each other")
            for host in WORKER_HOSTS:
                self.wait_ready(host)
            self._running = running.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._running.close()

    @property
    def url(self) -> str:
        sentinels = ";".join(self.network.address(host) for host in REDIS_HOSTS)
        return f"sentinel://:{_PASSWORD}@{sentinels}/0?master=vqa"

    def cut_off(self, host: str) -> set[str]:
        """Drop the packets of a worker's host; return the jobs that were in its slots at that moment."""
        worker = self._workers[host]
        # or it may be done with them before they are looked at
        worker.freeze()
        self.network.cut(host)
        held = self.running(host)
        worker.thaw()
        return held

    def lose(self, host: str) -> None:
        """Lose power on a host. Nobody is told: its connections stay open at their other ends."""
        if host in self._workers:
            # it would be done with its jobs in the time between the two, on a busy machine
            self._workers[host].freeze()
        self.network.cut(host)
        for server in self._servers.get(host, ()):
            server.kill()
        if host in self._workers:
            self._workers.pop(host).kill()

    def boot(self, host: str) -> None:
        """Start a lost host again, with its disk as it was."""
        self.network.join(host)
        for server in self._servers.get(host, ()):
            server.start()
        if host in WORKER_HOSTS:
            self._start_worker(host)

    def run(self, host: str, *command: str, log: Path, **variables: str) -> HostProcess:
        """Start a module of Python on a host; its output goes to the log."""
        settings = {"VQA_REDIS_URL": self.url} | self._variables | variables
        program = HostProcess(self.network.within(host), [sys.executable, "-m", *command], log, settings)
        self._programs.append(program)
        return program

    def wait_ready(self, host: str) -> None:
        def is_listed() -> bool:
            # a lost worker of this name may still be listed, and has not renewed since
            living = Ledger(self.redis).workers(time.monotonic() - self._booted_at[host])
            return any(worker.name.endswith(f"@{host}") for worker in living)

        until(is_listed, lambda: f"{host}: no worker is ready\n{self.log(host)}")

    def log(self, host: str) -> str:
        return self._path(host, "log").read_text()

    def runs(self, host: str) -> dict[str, list[journal.Run]]:
        """Return what the worker on this host has run, by job."""
        return journal.read(self._path(host, "jsonl"))

    def running(self, host: str) -> set[str]:
        """Return the jobs in the slots of the worker on this host, or that were there when it was lost."""
        since = self._booted_at[host]
        runs = self.runs(host)
        return {id for id in runs if any(run.end is None and run.start > since for run in runs[id])}

    def queued(self) -> set[str]:
        """Return the bulk jobs that wait for a worker and have a message."""
        return {id.decode() for id in self.redis.zrange("vqa:queued:bulk", 0, -1)}

    def ended(self, host: str) -> set[str]:
        """Return the jobs that the worker on this host has answered."""
        return {id for id, runs in self.runs(host).items() if any(run.end is not None for run in runs)}

    @property
    def master(self) -> str:
        """The host whose Redis is the master and takes writes."""
        until(self._masters, lambda: "no Redis is the master")
        return self._masters()[0]

    @property
    def redis(self) -> Redis:
        """The master's Redis, reached past the network."""
        return self._observers[self.master]

    def is_replica(self, host: str) -> bool:
        """Whether this host's Redis follows another one and has all that it has."""
        with suppress(RedisError):
            role = self._observers[host].role()
            return bool(role[0] == b"slave" and role[3] == b"connected")
        return False

    def is_whole(self) -> bool:
        """Whether two servers follow the third, and all Sentinels know it."""
        return self._has_replicas() and all(self._sentinel_knows(host, self.master) for host in REDIS_HOSTS)

    def _has_replicas(self) -> bool:
        return len(self._masters()) == 1 and sum(map(self.is_replica, REDIS_HOSTS)) == len(REDIS_HOSTS) - 1

    def _masters(self) -> list[str]:
        found = []
        for host, observer in self._observers.items():
            with suppress(RedisError):
                found += [host] if observer.role()[0] == b"master" else []
        return found

    def _sentinel_knows(self, host: str, master: str) -> bool:
        with suppress(RedisError), Redis(unix_socket_path=str(self._path(host, "sentinel.sock"))) as sentinel:
            about = sentinel.sentinel_masters()["vqa"]
            others = len(REDIS_HOSTS) - 1
            known = about["num-slaves"], about["num-other-sentinels"]
            return bool(about["ip"] == self.network.address(master) and known == (others, others))
        return False

    def _add_redis(self, host: str, running: ExitStack) -> None:
        address, first = self.network.address(host), self.network.address(REDIS_HOSTS[0])
        socket = self._path(host, "redis.sock")
        lines = [f"bind {address}", f"unixsocket {socket}", "repl-diskless-sync-delay 0"]
        lines += [f"requirepass {_PASSWORD}", f"masterauth {_PASSWORD}", "min-replicas-to-write 1"]
        lines += [f"replicaof {first} 6379"] if address != first else []
        watch = [f"bind {address}", "protected-mode no", f"unixsocket {self._path(host, 'sentinel.sock')}"]
        watch += [f"sentinel monitor vqa {first} 6379 2", f"sentinel auth-pass vqa {_PASSWORD}"]
        # a server on a busy machine may not answer for seconds, and is not lost
        watch += ["sentinel down-after-milliseconds vqa 4000", "sentinel failover-timeout vqa 5000"]
        program = [*self.network.on(host), str(find_server())]
        redis = RedisServer(self._folder / host, *lines, append_only=True, port=6379, program=program)
        own, alone = self._folder / f"{host}-sentinel", ["--sentinel"]
        self._servers[host] = redis, RedisServer(own, *watch, port=26379, program=program, arguments=alone)
        once = Retry(NoBackoff(), 0)
        observer = Redis(unix_socket_path=str(socket), password=_PASSWORD, retry=once)
        self._observers[host] = running.enter_context(observer)

    def _start_worker(self, host: str) -> None:
        self._booted_at[host] = time.monotonic()
        log, own = self._path(host, "log"), str(self._path(host, "jsonl"))
        variables = {"VQA_ENGINE": "echo", "VQA_SLOTS": str(SLOTS), "VQA_ECHO_JOURNAL": own}
        self._workers[host] = self.run(host, "workers", "--cards", "cpu", log=log, **variables)

    def _end_programs(self) -> None:
        for program in self._programs:
            program.kill()

    def _path(self, host: str, name: str) -> Path:
        return self._folder / f"{host}.{name}"
