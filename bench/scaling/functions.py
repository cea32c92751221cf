"""What the ledger's verbs would cost as a Redis function: its body runs once, where a script's runs at each call.

The library is made from the script as it is, for this measurement alone; no client uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from redis import Redis

from bench.scaling.figures import Found, Spread
from bench.scaling.usage import Usage
from producer.demo.redis_server import EmbeddedRedis
from vqa.ledger.commands import SCRIPT, Command, accept_command, close_command, entry_key, outcome_key
from vqa.ledger.records import Ending
from vqa.settings import Limits

CALLS = 3000
REPEATS = 5
_AT_ONCE = 100

_TIME = "local time = redis.call('TIME')\nlocal now = time[1] * 1000 + math.floor(time[2] / 1000)\n"
_CALL = "return verbs[ARGV[1]](unpack(ARGV, 2))"
_FUNCTION = f"""redis.register_function('vqa', function(keys, args)
KEYS, ARGV = keys, args
{_TIME.replace("local ", "")}{_CALL}
end)"""

How = Literal["EVALSHA", "FCALL"]


def library() -> str:
    """Return the ledger's script as a library of one function. Raises RuntimeError if the script has changed."""
    text = SCRIPT
    for old, new in ((_TIME, ""), ("if not verbs[ARGV[1]] then\n", "do\n"), (_CALL, _FUNCTION)):
        if old not in text:
            raise RuntimeError(f"the script has no {old!r}")
        text = text.replace(old, new)
    return "#!lua name=vqa\nlocal time, now, KEYS, ARGV\n" + text


def measure(calls: int = CALLS, repeats: int = REPEATS) -> Found:
    """Return us of Redis for a call of each verb, 100 calls sent at once."""
    found: dict[str, list[float]] = {}
    with EmbeddedRedis() as server, Redis.from_url(server.url) as redis:
        redis.execute_command("FUNCTION", "LOAD", library())
        names: dict[How, str] = {"EVALSHA": redis.script_load(SCRIPT), "FCALL": "vqa"}
        for repeat in range(repeats):
            for how, name in names.items():
                redis.flushdb()
                for verb, commands in _verbs([f"{how}-{repeat}-{number}" for number in range(calls)]).items():
                    before = Usage.read(redis)
                    _send(redis, how, name, commands)
                    used = Usage.read(redis).since(before)
                    found.setdefault(f"us of Redis for {verb} by {how}", []).append(used.cpu_s * 1e6 / calls)
    return {what: Spread(runs) for what, runs in found.items()}


def _verbs(ids: Sequence[str]) -> dict[str, list[Command]]:
    payload, outcome, limits = b"x" * 400, b"x" * 1000, Limits()
    takes: list[Command] = [
        ([entry_key(id)], ["take", id, outcome_key(id), "card0@host", "token", 9000, "0", 0]) for id in ids
    ]
    return {
        "accept": [accept_command(id, "interactive", payload, 3600, "vqa:reply:bench", limits) for id in ids],
        "take": takes,
        "close": [close_command(Ending(id, "token", outcome, 3600), limits) for id in ids],
    }


def _send(redis: Redis, how: How, name: str, commands: Sequence[Command]) -> None:
    for start in range(0, len(commands), _AT_ONCE):
        pipeline = redis.pipeline(transaction=False)
        for keys, arguments in commands[start : start + _AT_ONCE]:
            pipeline.execute_command(how, name, len(keys), *keys, *arguments)
        pipeline.execute()
