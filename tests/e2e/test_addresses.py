"""The addresses that VQA_REDIS_URL takes, each with a real server of its kind, a worker process and a producer."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import trustme
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from producer import Client
from producer.demo.redis_server import free_port
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess
from vqa import Job
from vqa.celery import make_app
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

PASSWORD = "a/b@c:d#é"
QUOTED = "a%2Fb%40c%3Ad%23%C3%A9"


@dataclass(frozen=True)
class Certificates:
    """A server's certificate for 127.0.0.1, and the authority that signed it."""

    authority: Path
    chain: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> "Certificates":
        folder.mkdir()
        made = cls(folder / "ca.pem", folder / "chain.pem", folder / "key.pem")
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(made.authority)
        certificate.private_key_pem.write_to_path(made.key)
        for piece in certificate.cert_chain_pems:
            piece.write_to_path(made.chain, append=True)
        return made

    def lines(self, port: int) -> list[str]:
        """What a server serves TLS alone with."""
        files = [f"tls-ca-cert-file {self.authority}", f"tls-cert-file {self.chain}", f"tls-key-file {self.key}"]
        return ["port 0", f"tls-port {port}", *files, "tls-auth-clients no", "tls-replication yes"]


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.make(tmp_path / "certificates")


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Callable[[str], WorkerProcess]]:
    """Start a worker on the queue at an address; it ends with the test."""
    with ExitStack() as started:

        def start(url: str) -> WorkerProcess:
            worker = WorkerProcess(url, "worker", tmp_path / "worker.log", VQA_LEASE_S="2", VQA_REDIS_TIMEOUT_S="2")
            started.callback(worker.stop)
            with connect(QueueSettings(redis_url=url)) as connection:
                worker.wait_ready(Ledger(connection))
            return worker

        yield start


def _asks(client: Client, question: str) -> None:
    job = Job(messages=[{"role": "user", "content": question}], timeout_s=40)
    assert client.answer(client.submit(job)).id == job.id
    # as Celery's result backend finds it
    app = make_app(client.settings)
    assert app.backend.get_state(job.id) == "SUCCESS"
    app.backend.client.close()
    app.close()


def _all_doors_refuse(url: str, words: str) -> None:
    """Our own connections, Celery's broker and its result backend."""
    settings = QueueSettings(redis_url=url, redis_timeout_s=2)
    app = make_app(settings)
    with connect(settings, retry_s=0) as connection, app.connection_for_write() as broker:
        for door in (connection.ping, broker.connect, app.backend.client.ping):
            with pytest.raises(RedisConnectionError, match=words):
                door()
    app.backend.client.close()
    app.close()


Work = Callable[[str], WorkerProcess]


def test_jobs_are_answered_over_tls_by_a_server_whose_certificate_is_checked(
    certificates: Certificates, work: Work, tmp_path: Path
) -> None:
    port = free_port()
    with RedisServer(tmp_path / "redis", *certificates.lines(port), f'requirepass "{PASSWORD}"', port=port):
        address = f"rediss://:{QUOTED}@127.0.0.1:{port}/0"
        url = f"{address}?ssl_ca_certs={certificates.authority}"
        work(url)
        with Client(redis_url=url) as client:
            _asks(client, "over TLS?")
        _all_doors_refuse(address, "certificate verify failed")
        _all_doors_refuse(url.replace("127.0.0.1", "localhost"), "doesn't match|mismatch|not valid for")
        _all_doors_refuse(f"redis://:{QUOTED}@127.0.0.1:{port}/0", "Connection")
        with Client(redis_url=f"{address}?ssl_cert_reqs=none") as client:
            _asks(client, "unchecked?")


@dataclass
class Watched:
    """A master, its replica, and a Sentinel that watches them; none of them answers without its password."""

    url: str
    servers: list[RedisServer]
    sentinel: Redis
    connect: Callable[[int], Redis]

    def master(self) -> RedisServer:
        masters = cast(dict[str, dict[str, int]], self.sentinel.sentinel_masters())
        return next(server for server in self.servers if server.port == masters["vqa"]["port"])

    def wait_for_master(self, other_than: RedisServer, timeout_s: float = 20) -> None:
        """Until another is the master, and the old one takes no writes any more: those would be lost."""
        until = time.monotonic() + timeout_s
        while self.master() is other_than or not self._is_master(self.master()) or self._is_master(other_than):
            assert time.monotonic() < until, "no failover"
            time.sleep(0.05)

    def _is_master(self, server: RedisServer) -> bool:
        try:
            return bool(self.connect(server.port).role()[0] == b"master")
        except RedisConnectionError:
            return False

    def wait_for_replica(self, timeout_s: float = 20) -> None:
        """Until the master's replica has all that it has, and the Sentinel knows that."""
        until = time.monotonic() + timeout_s
        while True:
            master = self.connect(self.master().port)
            synced = master.wait(1, 100) == 1
            known = [each for each in self.sentinel.sentinel_slaves("vqa") if not each["is_sdown"]]
            if synced and any(each["flags"] == "slave" for each in known):
                return
            assert time.monotonic() < until, "no replica"
            time.sleep(0.05)


@pytest.fixture(params=["sentinel", "sentinels"])
def watched(request: pytest.FixtureRequest, certificates: Certificates, tmp_path: Path) -> Iterator[Watched]:
    secure = request.param == "sentinels"
    first, second, third, nowhere = (free_port() for _ in range(4))
    own = [f'requirepass "{PASSWORD}"', f'masterauth "{PASSWORD}"', "repl-diskless-sync-delay 0"]
    watch = [
        f"sentinel monitor vqa 127.0.0.1 {first} 1",
        f'sentinel auth-pass vqa "{PASSWORD}"',
        "sentinel down-after-milliseconds vqa 1000",
        "sentinel failover-timeout vqa 3000",
        "requirepass watcher",
    ]

    def lines(port: int) -> list[str]:
        return certificates.lines(port) if secure else [f"port {port}"]

    def direct(port: int, password: str = PASSWORD) -> Redis:
        authority = str(certificates.authority)
        once = Retry(NoBackoff(), 0)
        return Redis("127.0.0.1", port, password=password, ssl=secure, ssl_ca_certs=authority, retry=once)

    with ExitStack() as running:
        servers = []
        for port, more in ((first, []), (second, [f"replicaof 127.0.0.1 {first}"])):
            server = RedisServer(tmp_path / str(port), *lines(port), *own, *more, port=port, append_only=True)
            servers.append(running.enter_context(server))
        sentinel = RedisServer(tmp_path / "sentinel", *lines(third), *watch, port=third, arguments=["--sentinel"])
        running.enter_context(sentinel)
        url = (
            f"{request.param}://:{QUOTED}@127.0.0.1:{nowhere};127.0.0.1:{third}/0?master=vqa&sentinel_password=watcher"
        )
        url += f"&ssl_ca_certs={certificates.authority}" if secure else ""
        asked = running.enter_context(direct(third, "watcher"))
        yield Watched(url, servers, asked, direct)


def test_jobs_go_on_after_failovers_without_a_restart_of_the_worker(watched: Watched, work: Work) -> None:
    watched.wait_for_replica()
    worker = work(watched.url)
    with Client(redis_url=watched.url, redis_timeout_s=5) as client:
        _asks(client, "before?")
        first = watched.master()
        watched.sentinel.sentinel_failover("vqa")
        watched.wait_for_master(other_than=first)
        _asks(client, "after a switch?")
        watched.wait_for_replica()
        second = watched.master()
        second.kill()
        watched.wait_for_master(other_than=second)
        _asks(client, "after a crash?")
    assert worker.process.poll() is None
