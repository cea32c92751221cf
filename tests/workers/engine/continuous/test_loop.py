from __future__ import annotations

import gc
import weakref

from tests.workers.engine.conftest import ask
from tests.workers.engine.continuous.conftest import Bench, Sizes
from vqa.errors import Cancelled
from workers.engine.runtime.heartbeat import Heartbeat
from workers.engine.runtime.pending import Pending


def test_prompts_that_ended_anywhere_leave_their_slots_at_the_next_turn(dense_bench: Bench) -> None:
    loop, heartbeat = dense_bench.loop(Sizes(slots=2)), Heartbeat(60)
    pending = [Pending(ask(number, max_new_tokens=30)) for number in range(3)]
    in_flight = loop.step([(each, dense_bench.request(each.prompt)) for each in pending], [], heartbeat)
    assert len(loop._scheduler.running) == 2

    pending[0].fail(Cancelled("in a slot"))
    pending[2].fail(Cancelled("in the queue"))
    in_flight = loop.step([], in_flight, heartbeat)

    assert len(loop._scheduler.running) == len(loop._generations) == 1
    pending[1].fail(Cancelled("in a slot"))
    assert loop.step([], in_flight, heartbeat) == []
    assert not loop._generations


def test_a_future_that_is_kept_does_not_keep_the_engine_in_memory(dense_bench: Bench) -> None:
    loop = dense_bench.loop(Sizes())
    pending = Pending(ask(max_new_tokens=30))
    loop.step([(pending, dense_bench.request(pending.prompt))], [], Heartbeat(60))
    gone = weakref.ref(loop)

    del loop
    gc.collect()

    assert gone() is None
    assert not pending.settled
