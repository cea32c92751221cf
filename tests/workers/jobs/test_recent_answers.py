"""How many answers a worker says that it gave within the last minute."""

from redis import Redis

from vqa import Answer, EngineError, Job
from vqa.answer import Timings, Usage
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Header, Lease
from workers.jobs import middleware
from workers.jobs.leases import Leases
from workers.jobs.recent_answers import RecentAnswers

JOB = Job(messages=[{"role": "user", "content": "?"}])
LEASE = Lease("a", "token", Header("leased", "bulk", 0, 0, 1, 0), b"", 0)


def answer(job: Job, lease: Lease) -> Answer:
    usage, timings = Usage(prompt_tokens=5, completion_tokens=1), Timings(queued_s=0, media_s=0, engine_s=1, total_s=1)
    return Answer(
        id="a", text="red", finish_reason="stop", usage=usage, timings=timings, model="m", worker="w", attempt=1
    )


def failure(job: Job, lease: Lease) -> Answer:
    raise EngineError("no")


def test_answers_count_for_a_minute_and_failures_never() -> None:
    now = [100.9]
    recent = RecentAnswers(lambda: now[0])
    for second, how in ((100.9, answer), (101.2, answer), (101.8, answer), (130.0, failure), (131.0, answer)):
        now[0] = second
        middleware.run([recent], JOB, LEASE, how)
    seen = {}
    for second in (131.0, 159.9, 160.5, 161.0, 190.9, 191.0):
        now[0] = second
        seen[second] = recent.figures()["answered_1m"]
    assert seen == {131.0: 4, 159.9: 4, 160.5: 3, 161.0: 1, 190.9: 1, 191.0: 0}


def test_what_it_counts_is_in_the_list_of_workers(redis: Redis) -> None:
    recent = RecentAnswers()
    middleware.run([recent], JOB, LEASE, answer)
    leases = Leases(redis, "worker", 9, {"slots": 1}, recent.figures)
    leases.start(on_lost=lambda id: None)
    while not (workers := Ledger(redis).workers(within_s=5)):
        pass
    leases.stop()
    assert workers[0].about == {"slots": 1, "answered_1m": 1}
