"""Real workers are scraped over HTTP; the figures equal what was done."""

import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from producer import Client, Job
from tests.metrics import Scrape
from tests.worker_process import TINY, StartWorker, WorkerProcess
from vqa import errors
from vqa.answer import Answer
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Lease
from vqa.metrics.declared import BUILD, ENGINE, WORKER

BUCKETS = re.compile(r"_(bucket|sum|count)$")


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with Client(redis_url=redis_url) as client:
        yield client


def job(text: str = "What is it?", **fields: Any) -> Job:
    return Job(messages=[{"role": "user", "content": text}], **fields)


def metrics_of(worker: WorkerProcess) -> Callable[[], Scrape]:
    until = time.monotonic() + 30
    while not (said := re.search(r"metrics: (http://\S+)", worker.log.read_text())):
        assert time.monotonic() < until, worker.log.read_text()
        time.sleep(0.02)
    url = said[1]
    return lambda: Scrape.of(url)


def until(scrape: Callable[[], Scrape], ready: Callable[[Scrape], bool], timeout_s: float = 10) -> Scrape:
    """A job's thread counts a moment after its outcome is written."""
    end = time.monotonic() + timeout_s
    while not ready(found := scrape()):
        assert time.monotonic() < end, found.samples
        time.sleep(0.02)
    return found


def ended(found: Scrape, **labels: str) -> float:
    return sum(
        value
        for (name, pairs), value in found.samples.items()
        if name == "vqa_attempts_total" and labels.items() <= dict(pairs).items()
    )


def require_declared(found: Scrape) -> None:
    """What an echo worker on no card shows is declared, with these labels."""
    declared = {metric.name: metric for metric in WORKER}
    absent = {metric.name for metric in ENGINE.values()} | {name for name in declared if name.startswith("vqa_gpu_")}
    assert found.names == {*declared} - absent
    for name in found.names:
        assert found.declared[name] == (declared[name].kind, declared[name].help)
    for name, labels in found.samples:
        if name.startswith("vqa_"):
            metric = declared.get(name) or declared[BUCKETS.sub("", name)]
            assert {label for label, _ in labels} - {"le"} == {*metric.labels}
    assert len(found.labels(BUILD.name)) == 1


def test_jobs_are_counted_by_lane_outcome_and_code(client: Client, start_worker: StartWorker) -> None:
    scrape = metrics_of(start_worker(VQA_METRICS_ADDRESS="127.0.0.1:0", VQA_SLOTS="3"))
    retry = {"attempts": 2, "base_s": 0.01, "cap_s": 0.01}
    again = {"echo_fail": "EngineError", "echo_fail_attempts": "1"}
    done = client.submit_many(
        [
            *(job(f"question {number}") for number in range(4)),
            job("in bulk", lane="bulk"),
            job("refused", metadata={"echo_fail": "BadImage"}),
            job("again", lane="bulk", retry=retry, metadata=again),
            job("never", lane="bulk", retry=retry, metadata={"echo_fail": "EngineError"}),
            job("no image", lane="bulk", retry=retry, metadata={"echo_fail": "ImageUnavailable"}),
        ]
    )
    outcomes = dict(client.answers(done, timeout_s=30))
    answers = [each for each in outcomes.values() if isinstance(each, Answer)]
    found = until(scrape, lambda found: ended(found) == 12)
    counted = {
        (labels["lane"], labels["outcome"], labels["code"]): found.value("vqa_attempts_total", **labels)
        for labels in found.labels("vqa_attempts_total")
    }
    assert counted == {
        ("interactive", "answered", ""): 4,
        ("interactive", "failed", "bad_image"): 1,
        ("bulk", "answered", ""): 2,
        ("bulk", "retried", "engine_error"): 2,
        ("bulk", "retried", "image_unavailable"): 1,
        # by the last attempt's error, not `job_given_up`
        ("bulk", "dead_letter", "engine_error"): 1,
        ("bulk", "dead_letter", "image_unavailable"): 1,
    }
    for name in ("queued", "media", "engine", "total"):
        assert found.value(f"vqa_job_{name}_seconds_count", lane="interactive") == 4
        assert found.value(f"vqa_job_{name}_seconds_count", lane="bulk") == 2
    total_s = sum(found.value("vqa_job_total_seconds_sum", lane=lane) or 0 for lane in ("interactive", "bulk"))
    assert total_s == pytest.approx(sum(each.timings.total_s for each in answers))
    for name, field in (("prompt", "prompt_tokens"), ("answer", "completion_tokens")):
        counted_tokens = sum(
            found.value(f"vqa_{name}_tokens_total", lane=lane) or 0 for lane in ("interactive", "bulk")
        )
        assert counted_tokens == sum(getattr(each.usage, field) for each in answers) > 0
    assert found.value("vqa_slots") == 3


def test_reused_streamed_and_redelivered_answers_are_counted_as_declared(
    client: Client, redis: Redis, start_worker: StartWorker
) -> None:
    lost = client.submit(job("twice", lane="bulk"))
    ledger = Ledger(redis)
    assert isinstance(ledger.take(lost, "gone", "token", 60), Lease)
    assert ledger.retry(lost, "token", error="WorkerLost: its lease ran out", charge="lost")
    scrape = metrics_of(start_worker(VQA_METRICS_ADDRESS="127.0.0.1:0", VQA_LEASE_S="1"))
    for _ in range(3):
        client.answer(client.submit(job("the same", reuse=True)), timeout_s=30)
    with client.stream(job("bit by bit", metadata={"echo_delay_s": "0.2"})) as stream:
        list(stream)
    found = until(scrape, lambda found: ended(found) == 5 and (found.value("vqa_lease_renewals_total") or 0) > 1)
    require_declared(found)
    assert found.value("vqa_redelivered_attempts_total", lane="bulk") == 1
    assert found.value("vqa_redelivered_attempts_total", lane="interactive") == 0
    assert found.value("vqa_reused_answers_total", lane="interactive") == 2
    assert found.value("vqa_job_engine_seconds_count", lane="interactive") == 2
    assert found.value("vqa_job_total_seconds_count", lane="interactive") == 4
    assert found.value("vqa_job_first_text_seconds_count", lane="interactive") == 1
    assert 0 < (found.value("vqa_job_first_text_seconds_sum", lane="interactive") or 0) < 5


def test_slots_are_used_while_jobs_run_and_a_cancelled_job_loses_its_lease(
    client: Client, start_worker: StartWorker
) -> None:
    scrape = metrics_of(start_worker(VQA_METRICS_ADDRESS="127.0.0.1:0", VQA_SLOTS="2"))
    ids = client.submit_many([job(f"long {number}", metadata={"echo_delay_s": "60"}) for number in range(3)])
    found = until(scrape, lambda found: found.value("vqa_jobs_held") == 3)
    found = until(scrape, lambda found: found.value("vqa_slots_used") == 2)
    ages = [found.value("vqa_jobs_held_oldest_seconds", lane=lane) or 0 for lane in ("interactive", "bulk")]
    assert ages[0] > 0 == ages[1]
    found = until(
        scrape, lambda found: (found.value("vqa_jobs_held_oldest_seconds", lane="interactive") or 0) > ages[0]
    )
    for id in ids:
        client.cancel(id)
    found = until(scrape, lambda found: ended(found, outcome="cancelled", code="cancelled") == 3)
    assert found.value("vqa_lost_leases_total") == 3
    assert (found.value("vqa_jobs_held"), found.value("vqa_slots_used")) == (0, 0)
    assert found.value("vqa_jobs_held_oldest_seconds", lane="interactive") == 0


def test_every_code_is_one_of_the_tree_of_errors() -> None:
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.VQAError)]
    assert len({each.code() for each in classes}) < 50


def test_figures_of_an_engine_with_a_model_equal_what_its_answers_say(
    client: Client, start_worker: StartWorker
) -> None:
    worker = start_worker(
        VQA_METRICS_ADDRESS="127.0.0.1:0",
        VQA_ENGINE="continuous",
        VQA_MODEL=str(TINY),
        VQA_SLOTS="2",
        OMP_NUM_THREADS="1",
    )
    scrape = metrics_of(worker)
    text = "The same long beginning of a question, more than a block of the cache. " * 4
    answers = [client.answer(client.submit(job(text, max_new_tokens=4)), timeout_s=60) for _ in range(3)]
    cached = sum(answer.usage.cached_tokens for answer in answers)
    assert cached > 0
    found = until(scrape, lambda found: found.value("vqa_engine_cached_tokens_total") == cached and ended(found) == 3)
    assert found.value("vqa_cached_tokens_total", lane="interactive") == cached
    prompts = sum(answer.usage.prompt_tokens for answer in answers)
    assert found.value("vqa_prompt_tokens_total", lane="interactive") == prompts
    for name in ("slot_wait", "prefill", "decode"):
        assert found.value(f"vqa_job_{name}_seconds_count", lane="interactive") == 3
        seconds = sum(getattr(answer.timings, f"{name}_s") for answer in answers)
        assert found.value(f"vqa_job_{name}_seconds_sum", lane="interactive") == pytest.approx(seconds)
    assert min(answer.timings.prefill_s for answer in answers) > 0
    # a prompt to warm up comes first
    assert (found.value("vqa_engine_prompt_tokens_total") or 0) >= prompts - cached
    assert (found.value("vqa_engine_pass_seconds_total") or 0) > 0
    assert (found.value("vqa_kv_blocks") or 0) > 0
    found = until(scrape, lambda found: found.value("vqa_kv_blocks_used") == 0)
    assert {metric.name for metric in ENGINE.values()} <= found.names


def test_a_taken_address_ends_the_worker_with_a_line_that_names_the_setting(start_worker: StartWorker) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        worker = start_worker(ready=False, VQA_METRICS_ADDRESS=address)
        assert worker.process.wait(60) != 0
    said = worker.log.read_text()
    assert f"NotReady: VQA_METRICS_ADDRESS: metrics cannot be shown at {address}" in said
    assert "Traceback" not in said
