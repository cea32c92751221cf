"""Redis in trouble, or the way to it: no job is lost, none is answered twice, and no worker needs a restart."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.trouble import ERROR_WITHIN_S, TIMEOUT_S, Stage
from tests.redis_server import flushing_scripts
from vqa import Answer, QueueUnavailable


@pytest.fixture
def own_stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """Without a worker, with settings of the test's own."""
    with Stage(tmp_path, **getattr(request, "param", {})) as stage:
        yield stage


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """With a worker that outlives each trouble, and has no open job left after it."""
    with Stage(tmp_path_factory.mktemp("stage")) as stage:
        stage.work()
        yield stage


def test_redis_is_killed_again_and_again_and_comes_back_with_its_data(stage: Stage) -> None:
    ids: list[str] = []
    for _ in range(4):
        ids += stage.submit(4)
        stage.wait_until_running(ids, 2)
        with stage.waiting(ids[-1]) as got:
            stage.server.kill()
            stage.server.start()
        assert isinstance(got[0][1], Answer), "who waits rides it out"
    answers = stage.answered_once(ids)
    assert Counter(answer.attempt for answer in answers.values()) == {1: 16}
    stage.unharmed()


def test_redis_is_away_for_several_seconds(stage: Stage) -> None:
    stage.away(8)


def test_redis_hangs_for_longer_than_a_lease(stage: Stage) -> None:
    ids = stage.submit(6)
    stage.wait_until_running(ids, 2)
    with stage.waiting(ids[-1]) as got:
        begun = time.monotonic()
        stage.server.pause()
        assert "does not answer" in stage.refuses()
        time.sleep(3)
        stage.server.resume()
    at, outcome = got[0]
    assert isinstance(outcome, QueueUnavailable)
    assert at - begun < ERROR_WITHIN_S
    stage.answered_once(ids + stage.submit(2))
    stage.unharmed()


@pytest.mark.parametrize("own_stage", [{"VQA_HANG_S": "1", "VQA_REDIS_TIMEOUT_S": "1"}], indirect=True)
def test_a_worker_that_waits_for_a_silent_redis_does_not_hang(own_stage: Stage) -> None:
    own_stage.work()
    ids = own_stage.submit(4)
    own_stage.wait_until_running(ids, 2)
    own_stage.server.pause()
    # the calls of the thread that consumes may take a second each, and it hangs after four seconds
    time.sleep(12)
    own_stage.server.resume()
    own_stage.answered_once(ids + own_stage.submit(2))
    own_stage.unharmed()


def test_redis_answers_again_while_the_consuming_thread_looks_whether_it_does(stage: Stage) -> None:
    ids: list[str] = []
    # an event times out after 2 s; the look that follows it ends at some time after that
    for silence_s in (2.4, 2.8, 3.2, 3.6):
        ids += stage.submit(4, 0.1)
        stage.server.pause()
        time.sleep(silence_s)
        stage.server.resume()
        ids += stage.submit(2, 0.1)
    stage.answered_once(ids)
    stage.unharmed()


def test_a_full_redis_refuses_jobs_and_goes_on_answering_those_that_it_has(stage: Stage) -> None:
    ids = stage.submit(8)
    stage.wait_until_running(ids, 2)
    stage.redis.config_set("maxmemory", 1)
    assert stage.refuses().startswith("QueueFull: ")
    with stage.waiting(ids[-1]) as got:
        pass
    assert isinstance(got[0][1], Answer)
    assert stage.refuses().startswith("QueueFull: ")
    stage.redis.config_set("maxmemory", 0)
    time.sleep(1)
    answers = stage.answered_once(ids + stage.submit(2))
    assert Counter(answer.attempt for answer in answers.values()) == {1: 10}
    stage.unharmed()


def test_redis_takes_no_writes_for_longer_than_a_lease(stage: Stage) -> None:
    ids = stage.submit(6)
    stage.wait_until_running(ids, 2)
    with stage.waiting(ids[-1]) as got:
        begun = time.monotonic()
        # of a master that is not there: its own data stay
        stage.redis.replicaof("127.0.0.1", 1)
        assert stage.refuses().startswith("QueueUnavailable: ")
        time.sleep(3)
        stage.redis.replicaof("NO", "ONE")
    at, outcome = got[0]
    assert isinstance(outcome, Answer) or at - begun < ERROR_WITHIN_S
    stage.answered_once(ids + stage.submit(2))
    stage.unharmed()


# the default lease, and a second there and back
@pytest.mark.parametrize("own_stage", [{"VQA_LEASE_S": "9", "VQA_REDIS_TIMEOUT_S": "5"}], indirect=True)
def test_the_way_to_redis_is_slow(own_stage: Stage) -> None:
    worker = own_stage.work()
    own_stage.answered_once(own_stage.submit(1, seconds=0))
    own_stage.slow(worker, 0.5)
    ids = own_stage.submit(1)
    with own_stage.waiting(ids[0]) as got:
        pass
    assert isinstance(got[0][1], Answer)
    own_stage.restore(worker)
    [answer] = own_stage.answered_once(ids).values()
    assert answer.attempt == 1
    own_stage.unharmed()


def test_a_worker_that_is_cut_off_loses_its_jobs_to_another_and_changes_nothing_when_it_is_back(
    own_stage: Stage,
) -> None:
    first = own_stage.work("first")
    # none is done before the worker is cut off
    ids = own_stage.submit(2, seconds=4)
    own_stage.wait_until_running(ids, 2)
    own_stage.silence(first)
    own_stage.work("second")
    answers = own_stage.answered_once(ids)
    assert {(answer.attempt, answer.worker.partition("@")[0]) for answer in answers.values()} == {(2, "second")}
    own_stage.restore(first)
    # its closes arrive now, and are too late
    own_stage.wait_for_log(first, "this attempt's outcome is dropped")
    assert own_stage.answered_once(ids) == answers
    # it consumes again as soon as it notices that its connection is whole
    until = time.monotonic() + 30
    while "first" not in own_stage.answering(own_stage.submit(8, seconds=0.5)):
        assert time.monotonic() < until, first.log.read_text()
    own_stage.unharmed()


def test_a_producer_that_is_cut_off_gets_an_error_in_time_and_its_jobs_are_answered(stage: Stage) -> None:
    ids = stage.submit(2)
    stage.proxy.silence()
    assert "does not answer" in stage.refuses()
    begun = time.monotonic()
    with pytest.raises(QueueUnavailable):
        stage.client.answer(ids[0], timeout_s=TIMEOUT_S / 2)
    assert time.monotonic() - begun < ERROR_WITHIN_S
    stage.proxy.restore()
    stage.answered_once(ids)


# as many slots as threads take jobs at once
@pytest.mark.parametrize("own_stage", [{"VQA_SLOTS": "16", "VQA_REDIS_TIMEOUT_S": "30"}], indirect=True)
def test_the_scripts_are_flushed_again_and_again(own_stage: Stage) -> None:
    own_stage.work()
    with flushing_scripts(own_stage.server.url):
        # one call each, and two pipelines of up to 500
        ids = [id for _ in range(100) for id in own_stage.submit(1, seconds=0)] + own_stage.submit(600, seconds=0)
        answers = own_stage.answered_once(ids, timeout_s=90)
    assert Counter(answer.attempt for answer in answers.values()) == {1: 700}
    own_stage.unharmed()
