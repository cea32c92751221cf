"""Servers that misbehave as a test says, and engines before them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.workers.engine.remote.chat_server import ChatServer
from workers.engine.base import Prompt, SamplingParams, Turn
from workers.engine.remote.engine import RemoteEngine
from workers.engine.remote.settings import RemoteSettings
from workers.engine.settings import EngineSettings

StartServer = Callable[..., ChatServer]
StartEngine = Callable[..., RemoteEngine]
MakePrompt = Callable[..., Prompt]


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    started: list[ChatServer] = []

    def start(*script: Any, **options: Any) -> ChatServer:
        started.append(ChatServer(*script, **options))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def start_engine(start_server: StartServer) -> Iterator[StartEngine]:
    """Start engines: `start_engine(server, another, slots=8, hang_s=0.2)`; they stop before the servers do."""
    started: list[RemoteEngine] = []

    def start(*servers: ChatServer, slots: int = 8, key: Any = None, patience_s: float = 0, **settings: Any) -> Any:
        remote = RemoteSettings(urls=",".join(server.url for server in servers), key=key)
        engine = RemoteEngine(EngineSettings(engine="remote", **settings), slots, remote, patience_s)
        engine.start(lambda error, ids: pytest.fail("the engine crashed"))
        started.append(engine)
        return engine

    yield start
    for engine in started:
        engine.stop()


def prompt(*parts: Any, id: str = "a", **params: Any) -> Prompt:
    """Return a prompt of one user's turn; names of fields of `Prompt` go there, others to the sampling."""
    own = {name: params.pop(name) for name in ("on_text", "deadline", "lane", "cache_salt") if name in params}
    sampling = SamplingParams(**{"max_new_tokens": 16, **params})
    return Prompt(id=id, turns=(Turn("user", parts or ("a secret question",)),), params=sampling, **own)
