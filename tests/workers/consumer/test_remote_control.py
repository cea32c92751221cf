"""Revoking by remote control, with a real ledger: every worker hears of it, one of them cancels."""

import gc
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker.control import Panel
from celery.worker.state import revoked
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from vqa.celery import make_app
from vqa.errors import Cancelled
from vqa.ledger.closing import Closing
from vqa.ledger.commands import outcome_key
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.results import decode
from vqa.settings import QueueSettings
from workers.consumer.remote_control import register_commands

Command = Callable[..., dict[str, str]]


class Events:
    """Celery's dispatcher, as far as it is used."""

    enabled = True

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, type: str, **fields: Any) -> None:
        self.sent.append((type, fields))


@pytest.fixture
def app(queue_settings: QueueSettings) -> Iterator[Celery]:
    app = make_app(queue_settings)
    yield app
    app.backend.result_consumer.stop()
    app.backend.client.connection_pool.disconnect()
    app.close()
    gc.collect()


@pytest.fixture
def ledger(redis: Redis, queue_settings: QueueSettings) -> Ledger:
    return Ledger(redis, queue_settings.limits)


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def command(
    app: Celery, queue_settings: QueueSettings, events: Events, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, str]]:
    """Send a command, as Celery's mailbox hands it over."""
    monkeypatch.setattr(Panel, "data", dict(Panel.data))
    monkeypatch.setattr(Panel, "meta", dict(Panel.meta))
    register_commands(closing(app, queue_settings), 60)
    state = SimpleNamespace(app=app, hostname="w@host", consumer=SimpleNamespace(event_dispatcher=events))

    def send(name: str, **arguments: Any) -> dict[str, str]:
        reply: dict[str, str] = Panel.data[name](state, **arguments)
        return reply

    return send


def closing(app: Celery, settings: QueueSettings) -> Closing:
    return Closing(app, Ledger(connect(settings), settings.limits.unbounded), settings.result_ttl_s)


def outcome(redis: Redis, app: Celery, id: str) -> object:
    data = redis.get(outcome_key(id))
    return decode(app.backend, data) if data else None


@pytest.mark.parametrize(("name", "extra"), [("revoke", {"terminate": True, "signal": "SIGTERM"}), ("terminate", {})])
def test_a_job_is_cancelled_whether_it_waits_runs_or_is_delayed(
    command: Command, redis: Redis, app: Celery, ledger: Ledger, events: Events, name: str, extra: dict[str, Any]
) -> None:
    for id in ("waits", "runs", "delayed"):
        ledger.accept(id, "bulk", b"{}", 60)
    ledger.take("runs", "w", "token", 9)
    ledger.take("delayed", "w", "other", 9)
    ledger.retry("delayed", "other", 30)
    assert command(name, task_id=["waits", "runs", "delayed"], **extra) == {"ok": "cancelled: waits, runs, delayed"}
    for id in ("waits", "runs", "delayed"):
        assert isinstance(outcome(redis, app, id), Cancelled)
    assert [(type, fields["uuid"]) for type, fields in events.sent] == [
        ("task-revoked", id) for id in ("waits", "runs", "delayed")
    ]
    assert ledger.counts()["bulk"] == {"waiting": 0, "queued": 0, "leased": 0, "delayed": 0}


def test_an_id_that_nobody_knows_yet_is_refused_when_its_message_comes(
    command: Command, redis: Redis, app: Celery, ledger: Ledger
) -> None:
    assert command("revoke", task_id="later") == {"ok": "cancelled: later"}
    assert isinstance(outcome(redis, app, "later"), Cancelled)
    assert ledger.accept("later", "bulk", b"{}", 60) == "closed"
    assert ledger.take("later", "w", "token", 9) == "closed"


def test_of_several_workers_one_cancels_and_tells_of_it(command: Command, ledger: Ledger, events: Events) -> None:
    ledger.accept("job", "interactive", b"{}", 60)
    replies = [command("revoke", task_id="job", terminate=False, signal=None) for _ in range(3)]
    assert replies == [{"ok": "cancelled: job"}] + 2 * [{"ok": "cancelled: none, or by another worker"}]
    assert len(events.sent) == 1


def test_what_has_ended_is_left_as_it_is(command: Command, redis: Redis, ledger: Ledger, events: Events) -> None:
    redis.set(outcome_key("answered"), b"{}")
    command("revoke", task_id="answered")
    assert redis.get(outcome_key("answered")) == b"{}"
    assert events.sent == []


def test_celerys_own_memory_of_revoked_ids_stays_empty(command: Command, ledger: Ledger) -> None:
    ledger.accept("job", "bulk", b"{}", 60)
    command("revoke", task_id="job")
    command("terminate", signal="KILL", task_id="another")
    assert len(revoked) == 0


def test_a_queue_that_is_full_takes_a_cancellation(
    command: Command, app: Celery, redis: Redis, queue_settings: QueueSettings, ledger: Ledger
) -> None:
    full = queue_settings.model_copy(update={"queue_most": 1})
    ledger.accept("one", "bulk", b"{}", 60)
    register_commands(closing(app, full), 60)
    assert command("revoke", task_id="unknown") == {"ok": "cancelled: unknown"}
    assert isinstance(outcome(redis, app, "unknown"), Cancelled)


@pytest.mark.parametrize("task_id", [None, 5, {"a": 1}, ["good", 5], "a/b", [["nested"]], "x" * 500])
def test_what_is_no_id_is_answered_with_an_error(command: Command, redis: Redis, task_id: object) -> None:
    assert "nothing was cancelled" in command("revoke", task_id=task_id)["error"]
    assert redis.keys("celery-task-meta-*") == []


def test_a_redis_that_is_away_is_answered_with_an_error(
    command: Command, app: Celery, queue_settings: QueueSettings
) -> None:
    ledger = Ledger(Redis(port=1, retry=Retry(NoBackoff(), 0)))
    register_commands(Closing(app, ledger, queue_settings.result_ttl_s), 60)
    assert "Redis did not answer (ConnectionError)" in command("revoke", task_id="job")["error"]


def test_stamps_are_answered_with_an_error(command: Command) -> None:
    assert "by id" in command("revoke_by_stamped_headers", headers={"a": "b"})["error"]
