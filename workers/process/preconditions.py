"""What a worker needs before it loads its model: packages, open files, Redis, and a name that no other worker has."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec

from redis import Redis
from redis.exceptions import RedisError

from vqa.errors import NotReady
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import WorkerInfo
from vqa.redis.connection import REDIS_ERRORS
from vqa.redis.error_replies import describe
from vqa.redis.outage import RedisOutage
from vqa.settings import QueueSettings
from workers.engine.settings import EngineSettings

log = logging.getLogger(__name__)

#: what every engine with a model imports; the extra `worker` in pyproject.toml
_PACKAGES = ("torch", "transformers", "huggingface_hub", "jinja2", "numpy")

#: packages by engine where they are others, and the extra that has them
_OTHER_PACKAGES: Mapping[str, tuple[tuple[str, ...], str]] = {"echo": ((), "worker"), "remote": (("httpx2",), "remote")}

#: open files of a worker without threads and decoders, with a margin: libraries, the model's files, Celery's
#: connections; of a task thread, which may use a connection of each pool at once; of a decoder
_FILES, _FILES_THREAD, _FILES_DECODER = 64, 3, 4

#: a soft limit of open files is raised to this, or to what is needed
_SOFT_FILES = 65_536

#: pause between two looks at Redis
_LOOK_S = 0.2

#: a living worker's entry changes at each renewal, every third of a lease; this many times as long is long enough
_RENEWALS = 1.5


def require_packages(settings: EngineSettings) -> None:
    """Raise NotReady if this is an installation for producers, which lacks the packages of a model's engine."""
    packages, extra = _OTHER_PACKAGES.get(settings.engine, (_PACKAGES, "worker"))
    if missing := [name for name in packages if find_spec(name) is None]:
        raise NotReady(
            f"not installed: {', '.join(missing)}. A worker needs the extra `{extra}`; in a checkout of vqa-queue: "
            f"pip install '.[{extra}]' -c constraints.txt"
        )


def require_open_files(threads: int, decoders: int) -> None:
    """Raise this process's limit of open files as far as it may. Raises NotReady if that is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    needed = _FILES + _FILES_THREAD * threads + _FILES_DECODER * decoders
    if not unlimited and hard < needed:
        raise NotReady(
            f"this process may open {hard} files, and {threads} threads and {decoders} decoders need {needed}: raise "
            "the limit (ulimit -Hn; LimitNOFILE= in systemd; --ulimit nofile= in Docker), or lower VQA_SLOTS"
        )
    wanted = max(needed, _SOFT_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if unlimited else min(wanted, hard), hard))


def wait_for_redis(redis: Redis, settings: QueueSettings, on_wait: Callable[[], None]) -> None:
    """Return as soon as Redis answers; until then call `on_wait` after each try."""
    outage = RedisOutage(settings)
    while True:
        try:
            redis.ping()
            outage.answered()
            return
        except REDIS_ERRORS as error:
            outage.failed(error)
        on_wait()
        time.sleep(_LOOK_S)


def require_own_name(redis: Redis, name: str, lease_s: float, wait_s: float) -> None:
    """Raise NotReady if a living worker has this node name: Celery, `vqa status` and leases would take both for one.

    Waits for `wait_s` seconds, as the other one may be draining. A living worker's entry changes; that of one that was
    killed does not, and is removed. Raises one of REDIS_ERRORS.
    """
    ledger = Ledger(redis)
    last = _entry(ledger, name, lease_s)
    end = time.monotonic() + wait_s
    dead_at = time.monotonic() + _RENEWALS * lease_s / 3
    told = False
    while last is not None and time.monotonic() < dead_at:
        time.sleep(min(_LOOK_S, lease_s / 10))
        entry = _entry(ledger, name, lease_s)
        if entry is None or entry.seen == last.seen:
            last = entry
            continue
        last, dead_at = entry, time.monotonic() + _RENEWALS * lease_s / 3
        about = f"a worker named {name} is up already ({entry.about.get('model')}, {entry.about.get('slots')} slots)"
        if time.monotonic() >= end:
            raise NotReady(f"{about}; give this one another name (vqa worker --name), or its container a host name")
        if not told:
            told = True
            log.warning("%s: waiting %.0f s for it to stop", about, wait_s)
    if last is not None:
        ledger.forget_worker(name)


def _entry(ledger: Ledger, name: str, lease_s: float) -> WorkerInfo | None:
    # Redis's time comes in whole seconds
    return next((worker for worker in ledger.workers(lease_s + 2) if worker.name == name), None)


def require_redis_7(redis: Redis) -> None:
    """Raise NotReady if the server is older; a server that does not answer is only logged."""
    try:
        version = str(redis.info("server")["redis_version"])
    except RedisError as error:
        log.warning("Redis does not answer yet (%s); Celery keeps trying to connect", describe(error))
        return
    if int(version.partition(".")[0]) < 7:
        raise NotReady(f"vqa needs Redis 7.0 or later; the server at VQA_REDIS_URL is Redis {version}")
