"""The messages between a worker and the process of its engine, and how they are written as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from vqa.images.fit import Fit
from vqa.images.video_fit import VideoFit
from vqa.jobs.lane import Lane
from workers.engine.base import Completion, SamplingParams, Stall
from workers.engine.process.failures import Failure
from workers.engine.process.frames import BrokenFrame
from workers.engine.stats import Stats


@dataclass(frozen=True, slots=True)
class Start:
    """The first message: make an engine with `factory`, as `module:function`, and load it."""

    factory: str
    #: of `EngineSettings`
    settings: Mapping[str, Any]
    slots: int
    log_level: str
    kind: Literal["start"] = "start"


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep an image for later prompts; its pixels are the raw bytes of the frame."""

    image: int
    width: int
    height: int
    digest: str
    kind: Literal["hold"] = "hold"


@dataclass(frozen=True, slots=True)
class Release:
    """Forget these images; no later prompt has them."""

    images: tuple[int, ...]
    kind: Literal["release"] = "release"


@dataclass(frozen=True, slots=True)
class HeldImage:
    image: int


@dataclass(frozen=True, slots=True)
class HeldVideo:
    images: tuple[int, ...]
    times_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class HeldTurn:
    """A `Turn` whose images are held."""

    role: str
    parts: tuple[str | HeldImage | HeldVideo, ...]


@dataclass(frozen=True, slots=True)
class Submit:
    """A `Prompt`, with a number that no other has."""

    number: int
    id: str
    turns: tuple[HeldTurn, ...]
    params: SamplingParams
    lane: Lane
    deadline: float
    attempt: int
    metadata: Mapping[str, str]
    alone: bool
    cache_salt: str
    #: whether pieces of the text are to be sent
    streams: bool
    kind: Literal["submit"] = "submit"


@dataclass(frozen=True, slots=True)
class Cancel:
    number: int
    kind: Literal["cancel"] = "cancel"


@dataclass(frozen=True, slots=True)
class ForgetLongestPass:
    """See `workers.engine.stats.HasStats`."""

    kind: Literal["forget"] = "forget"


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine has started."""

    model: str
    fit: Fit | None
    video_fit: VideoFit | None
    kind: Literal["ready"] = "ready"


@dataclass(frozen=True, slots=True)
class NotLoaded:
    """The engine could not start."""

    failure: Failure
    kind: Literal["not loaded"] = "not loaded"


@dataclass(frozen=True, slots=True)
class Piece:
    """Text for `Prompt.on_text`."""

    number: int
    text: str
    kind: Literal["piece"] = "piece"


@dataclass(frozen=True, slots=True)
class Answered:
    number: int
    completion: Completion
    kind: Literal["answered"] = "answered"


@dataclass(frozen=True, slots=True)
class Failed:
    number: int
    failure: Failure
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Crashed:
    """An error of this class ended the engine while it computed these prompts; all prompts fail after it."""

    name: str
    ids: tuple[str, ...]
    kind: Literal["crashed"] = "crashed"


@dataclass(frozen=True, slots=True)
class Status:
    """Sent ten times a second: the process runs, this thread hangs, and what was computed so far."""

    stall: Stall | None
    stats: Stats
    kind: Literal["status"] = "status"


ToChild = Start | Hold | Release | Submit | Cancel | ForgetLongestPass
ToParent = Ready | NotLoaded | Piece | Answered | Failed | Crashed | Status

Message = TypeVar("Message")


class Codec(Generic[Message]):
    """Writes messages of one direction, and reads them back."""

    def __init__(self, type_: Any) -> None:
        # deadlines are infinite where a job has none, and the logarithm of 0 is; tokens are bytes of any kind
        config = ConfigDict(
            extra="forbid", ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants"
        )
        self._adapter: TypeAdapter[Message] = TypeAdapter(type_, config=config)

    def encode(self, message: Message) -> bytes:
        # it would warn of an integer in place of a float
        return self._adapter.dump_json(message, warnings=False)

    def decode(self, data: bytes) -> Message:
        """Raises BrokenFrame; its text shows nothing of the message, which may hold a question."""
        try:
            return self._adapter.validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "message"
            raise BrokenFrame(f"{where}: {first['type']}") from None


TO_CHILD: Codec[ToChild] = Codec(Annotated[ToChild, Field(discriminator="kind")])
TO_PARENT: Codec[ToParent] = Codec(Annotated[ToParent, Field(discriminator="kind")])
