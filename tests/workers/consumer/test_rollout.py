"""Which requests of `vqa rollout` a worker accepts."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from vqa.errors import SettingsError
from vqa.rollout import Target
from workers.child_process import LINK_FD
from workers.consumer.rollout import Rollouts
from workers.engine.settings import EngineSettings
from workers.settings import WorkerSettings
from workers.supervisor.card_model import CardModel
from workers.supervisor.link import SupervisorLink

ID = "0123456789abcdef" * 2
LISTED = "org/new, org/pinned@v1.0, /models/mine"

Make = Callable[..., Rollouts]


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """The supervisor's end of the link."""
    theirs, ours = socket.socketpair()
    monkeypatch.setenv(LINK_FD, str(ours.detach()))
    return theirs


@pytest.fixture
def make(theirs: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Any:
    link = SupervisorLink()

    def make(models: str = LISTED, told: bool = True, **engine: Any) -> Rollouts:
        engine = {"model": "org/own", "engine": "echo"} | engine
        if told:
            for name, value in CardModel(Target(model="org/own")).environment().items():
                monkeypatch.setenv(name, value)
        return Rollouts(
            link, WorkerSettings(rollout_models=models, drain_s=10, ready_timeout_s=5), EngineSettings(**engine)
        )

    yield make
    theirs.close()
    assert link._socket is not None
    link._socket.close()


def ask(rollouts: Rollouts, model: str, revision: str | None = None, check: object = True) -> dict[str, Any]:
    request = {"id": ID, "target": {"model": model, "revision": revision}, "watch_s": 30}
    return rollouts.handle(None, request=request, check=check)


@pytest.mark.parametrize(
    ("model", "revision"),
    [("org/own", None), ("org/new", None), ("org/pinned", "v1.0"), ("/models/mine", None)],
    ids=["its-own", "listed", "pinned", "folder"],
)
def test_its_own_model_and_those_that_are_listed_are_accepted(make: Make, model: str, revision: str | None) -> None:
    # drained, a failed start and a start of the old one, each with a minute more
    assert ask(make(), model, revision) == {"ok": {"limit_s": 140.0, "own": {"model": "org/own", "revision": None}}}


@pytest.mark.parametrize(
    ("model", "revision", "models"),
    [
        ("org/new", None, ""),
        ("org/new2", None, LISTED),
        ("org/new", "main", LISTED),
        ("org/pinned", None, LISTED),
        ("org/pinned", "v1.0.1", LISTED),
        ("org/own", "main", LISTED),
        ("ORG/new", None, LISTED),
        ("/models/mine/../other", None, LISTED),
    ],
    ids=["nothing-listed", "another", "a-revision", "no-revision", "another-revision", "own-otherwise", "case", "path"],
)
def test_other_models_and_revisions_are_refused_by_the_settings_name(
    make: Make, model: str, revision: str | None, models: str
) -> None:
    assert ask(make(models), model, revision)["error"].startswith(
        f"rollout is refused: VQA_ROLLOUT_MODELS does not list {model}"
    )


@pytest.mark.parametrize(
    "request_",
    [
        None,
        "org/new",
        {"id": ID},
        {"id": "short", "target": {"model": "org/new"}},
        {"id": ID, "target": {"model": "org/new\nVQA_TRUST_REMOTE_CODE=1"}},
        {"id": ID, "target": {"model": "org/new\x9b2J"}},
        {"id": ID, "target": {"model": "org/new\u2028x"}},
        {"id": ID, "target": {"model": "org/new\ud800"}},
        {"id": ID, "target": {"model": "org/new", "revision": "-x"}},
        {"id": ID, "target": {"model": "org/new", "trust_remote_code": True}},
        {"id": ID, "target": {"model": "org/new"}, "trust_remote_code": True},
    ],
    ids=[
        "none",
        "text",
        "no-target",
        "id",
        "line-break",
        "terminal-command",
        "line-separator",
        "surrogate",
        "revision",
        "more-of-target",
        "more",
    ],
)
def test_what_is_malformed_is_refused(make: Make, request_: object) -> None:
    assert "it is malformed" in make().handle(None, request=request_)["error"]


def test_code_that_comes_with_a_model_runs_at_a_listed_revision_only(make: Make) -> None:
    rollouts = make(trust_remote_code=True)
    assert "VQA_TRUST_REMOTE_CODE=1 would run the code of whatever revision" in ask(rollouts, "org/new")["error"]
    assert "ok" in ask(rollouts, "org/pinned", "v1.0")
    assert "ok" in ask(rollouts, "org/own")


def test_models_of_the_remote_engine_are_its_servers(make: Make) -> None:
    rollouts = make(engine="remote")
    assert "its servers choose the model (VQA_REMOTE_URLS)" in ask(rollouts, "org/new")["error"]
    assert "ok" in ask(rollouts, "org/own")


def test_a_worker_without_a_supervisor_refuses() -> None:
    rollouts = Rollouts(SupervisorLink(), WorkerSettings(rollout_models=LISTED), EngineSettings())
    assert "no supervisor that would start it again" in ask(rollouts, "org/new")["error"]


def test_a_supervisor_of_an_earlier_release_would_start_its_own_model_again(make: Make) -> None:
    assert "its supervisor is of a release without this command" in ask(make(told=False), "org/own")["error"]


def test_a_request_goes_to_the_supervisor_once_and_drains(
    make: Make, theirs: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, number: signals.append(number))
    rollouts = make()
    assert "ok" in ask(rollouts, "org/new", check=False)
    assert "ok" in ask(rollouts, "org/new", check=False)
    line = theirs.recv(65536)
    asked = {"id": ID, "target": {"model": "org/new", "revision": None}, "watch_s": 30.0}
    assert json.loads(line.removeprefix(b"restart ")) == asked
    assert signals == [signal.SIGTERM]
    other = {"id": "f" * 32, "target": {"model": "org/new"}}
    assert "restarts for another rollout already" in rollouts.handle(None, request=other)["error"]


def test_a_supervisor_that_does_not_read_leaves_the_worker_as_it_is(make: Make) -> None:
    rollouts = make()
    while rollouts._link._send(b"\n" * 4096):
        continue
    assert "its supervisor does not read" in ask(rollouts, "org/new", check=False)["error"]


@pytest.mark.parametrize("models", ["org/new@", "http://host/new", "org/new@a b"], ids=["empty", "url", "space"])
def test_a_wrong_list_stops_the_process_and_is_named(models: str) -> None:
    with pytest.raises(SettingsError, match="VQA_ROLLOUT_MODELS"):
        WorkerSettings(rollout_models=models)
