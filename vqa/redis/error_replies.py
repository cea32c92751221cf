"""Redis's error replies, read by their code: what they say, whether they pass by themselves, and what to do.

redis-py has classes for some codes only, takes the code off their messages, and in a pipeline puts the command, which
may be a user's text, before the message.
"""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    ExecAbortError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

#: codes that redis-py takes off; subclasses first
_CLASSES: dict[type[Exception], str] = {
    MasterDownError: "MASTERDOWN",
    ClusterCrossSlotError: "CROSSSLOT",
    MovedError: "MOVED",
    AskError: "ASK",
    TryAgainError: "TRYAGAIN",
    ClusterDownError: "CLUSTERDOWN",
    ReadOnlyError: "READONLY",
    OutOfMemoryError: "OOM",
    NoPermissionError: "NOPERM",
    NoScriptError: "NOSCRIPT",
    ExecAbortError: "EXECABORT",
    BusyLoadingError: "LOADING",
    AuthenticationError: "NOAUTH",
    AuthorizationError: "NOPERM",
}

#: replies without a code of their own, by how they begin
_BEGINNINGS = {
    "the user executing the script can't": "NOPERM",
    "acl failure in script": "NOPERM",
    "max number of clients reached": "MAXCLIENTS",
    "script killed by user": "KILLED",
    "unknown command": "UNKNOWN",
    "unknown redis command": "UNKNOWN",
    "unknown subcommand": "UNKNOWN",
    "db index is out of range": "DB",
}

#: replies that pass, and what to do if they do not
_PASSING = {
    "MISCONF": "Redis cannot write to its disk: free space there, and see its log",
    "NOREPLICAS": "fewer replicas are connected than min-replicas-to-write asks for: start them, or lower that setting",
    "UNCONFIRMED": "start the replicas, or lower VQA_WAIT_REPLICAS",
    "READONLY": "it is a replica: wait until a failover has ended, or let VQA_REDIS_URL name the master",
    "MASTERDOWN": "it is a replica without its master: wait for the failover, or let VQA_REDIS_URL name the master",
    "UNBLOCKED": "it has become a replica: wait until a failover has ended, or let VQA_REDIS_URL name the master",
    "LOADING": "it has just started: wait until it has read its data",
    "BUSY": "a script has run for longer than busy-reply-threshold: wait for its end, or send SCRIPT KILL",
    "KILLED": "somebody sent SCRIPT KILL: try again",
    "NOSCRIPT": "its scripts were flushed: try again",
    "MAXCLIENTS": "close connections, or raise its maxclients",
    "WRONGTYPE": "another program has overwritten a key of vqa: a running worker sets it aside within seconds, "
    "`vqa doctor` names it; give each program its own database",
    "TRYAGAIN": "use a Redis that is not part of a cluster",
    "CLUSTERDOWN": "use a Redis that is not part of a cluster",
}

#: replies that would be the same again
_LASTING = {
    "OOM": "raise its maxmemory, or wait until jobs are answered",
    "NOAUTH": "check VQA_REDIS_URL",
    "NOPERM": "give the user in VQA_REDIS_URL the rights in deploy/redis-users.conf; ACL LOG shows which is missing",
    "DENIED": "its protected mode is on: give it a password, or bind it to a private address",
    "DB": "let VQA_REDIS_URL name a database that exists",
    "UNKNOWN": "vqa needs Redis 7.0 or later, with no command renamed",
    "NOPROTO": "vqa needs Redis 7.0 or later",
    "MOVED": "use a Redis that is not part of a cluster",
    "ASK": "use a Redis that is not part of a cluster",
    "CROSSSLOT": "use a Redis that is not part of a cluster",
}
_UNNAMED = "vqa needs Redis 7.0 or later, and its keys unchanged"

_PIPELINE = re.compile(r"Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)
#: how an error that a script raised begins
_RAISED = re.compile(r"(?:Error running script \(call to \w+\): )?(?:@?user_script: ?\d+: )+(?:ERR )?")
_IN_SCRIPT = re.compile(r" script: \w+, on @?\S+:\d+\.$")
_CODE = re.compile(r"-?([A-Z][A-Z0-9_]+)( |$)")
#: what follows may be a user's text
_ARGUMENTS = re.compile(r",? with args beginning with:.*", re.DOTALL)
_COMMAND = re.compile(r"permissions to run the '([^']+)' command")

_MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error that Redis replied with."""

    #: upper case; of a reply that has none, `ERR` or one of ours
    code: str
    #: what Redis said, without the code, the command and a user's text
    said: str

    @classmethod
    def parse(cls, error: BaseException) -> Self | None:
        """Read the reply from redis-py's exception; return None if Redis did not reply."""
        said = _RAISED.sub("", _without_command(str(error)), count=1)
        said = _ARGUMENTS.sub("", _IN_SCRIPT.sub("", said)).strip()
        code = next((code for kind, code in _CLASSES.items() if isinstance(error, kind)), None)
        code = code or next((code for words, code in _BEGINNINGS.items() if said.lower().startswith(words)), None)
        if code is None and not isinstance(error, ResponseError):
            return None
        named = _CODE.match(said)
        if named:
            said = said[named.end() :]
        return cls(code or (named[1] if named else "ERR"), said[:_MOST_CHARACTERS])

    @property
    def passes(self) -> bool:
        """Whether the same command may succeed a moment later, perhaps on a fresh connection."""
        return self.code in _PASSING

    @property
    def advice(self) -> str:
        """What an operator can do."""
        if self.code == "NOPERM" and (command := _COMMAND.search(self.said)):
            return f"give the user in VQA_REDIS_URL the right +{command[1]}, and those in deploy/redis-users.conf"
        return _PASSING.get(self.code) or _LASTING.get(self.code, _UNNAMED)

    def __str__(self) -> str:
        return f"{self.code} {self.said}".strip()


def _without_command(text: str) -> str:
    message = _PIPELINE.sub("", text, count=1)
    # redis-py's asyncio pipelines quote the message, as the only member of a tuple
    if message != text and message.startswith("(") and message.endswith(",)"):
        with suppress(ValueError, SyntaxError):
            return str(ast.literal_eval(message)[0])
    return message


def is_temporary(error: BaseException) -> bool:
    """Return whether another try, on a fresh connection, may succeed: Redis did not reply, or said what passes."""
    reply = ErrorReply.parse(error)
    return reply is None or reply.passes


def is_wrong_type(error: BaseException) -> bool:
    """Return whether another program has overwritten the key by one of another type."""
    reply = ErrorReply.parse(error)
    return reply is not None and reply.code == "WRONGTYPE"


def describe(error: BaseException) -> str:
    """Return the error for a log line: its class, and what Redis said."""
    reply = ErrorReply.parse(error)
    return f"{type(error).__name__}: {reply}" if reply else type(error).__name__
