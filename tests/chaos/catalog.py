"""All faults, and how often each is drawn."""

from __future__ import annotations

from tests.chaos import damage, faults, trouble
from tests.chaos.faults import Fault

#: relative frequencies
WEIGHTS: dict[Fault, int] = {
    faults.kill: 14,
    faults.burst: 5,
    faults.stop: 8,
    faults.drain: 7,
    faults.hurry: 7,
    faults.hang: 8,
    faults.crash: 6,
    faults.poison: 6,
    faults.producer: 6,
    trouble.redis_kill: 6,
    trouble.redis_restart: 3,
    trouble.redis_pause: 5,
    trouble.partition: 8,
    trouble.cut: 5,
    trouble.reset: 5,
    trouble.slow: 4,
    trouble.malformed: 7,
    damage.damage: 6,
    damage.flush: 5,
    damage.broadcast: 6,
    damage.clock: 6,
    damage.decoders: 5,
}

#: the main kinds; a short run injects each once
ONE_OF_EACH: list[Fault] = [
    faults.kill,
    faults.stop,
    faults.drain,
    faults.hurry,
    faults.hang,
    faults.crash,
    faults.poison,
    trouble.redis_kill,
    trouble.partition,
    trouble.malformed,
    damage.damage,
    damage.flush,
    damage.broadcast,
    damage.clock,
    damage.decoders,
]
