"""Each bad file ends in images or a typed error within limits, in a pool and in a real worker, which lives on."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest
from redis import Redis

from producer import Client
from tests.corpus.damage import DAMAGES
from tests.corpus.judge import LIMITS, Judge
from tests.corpus.memory import mib, peak_bytes
from tests.corpus.registry import DEAR, make, makers, names
from tests.corpus.valid import valid_files
from tests.worker_process import StartWorker
from vqa import Answer, BadImage, Job
from vqa.images.store import ImageStore
from vqa.settings import QueueSettings
from workers.media.limits import BASE_BYTES

SEED = 0
#: those that the pool decodes here; `make fuzz` decodes all of them
EVERY, PARTS = 5, 4

#: of the worker process itself, with encoded and decoded images of its jobs
WORKER_BYTES = 500 * 2**20

#: of a job
TIMEOUT_S = 300


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with pytest.MonkeyPatch.context() as patch:
        # readers warn of damage, which fails a test here
        patch.setenv("PYTHONWARNINGS", "ignore")
        judge = Judge()
        yield judge
        judge.close()


def cheap() -> list[str]:
    return [name for name in names() if name.partition("/")[0] not in DEAR]


def crafted() -> list[str]:
    """Return those that are made to harm; damaged ones are tried in the pool."""
    return [name for name in cheap() if not name.partition("/")[0].endswith(tuple(f"-{how}" for how in DAMAGES))]


def test_there_are_over_300_files_in_all_formats_and_a_seed_makes_them_again() -> None:
    assert len(makers()) > 500
    assert {name.partition("-")[0] for name in makers()} >= {"png", "jpeg", "gif", "webp", "tiff", "bmp", "pdf", "avif"}
    for name in cheap()[::20]:
        assert make(7, name) == make(7, name)
    assert make(7, "png-rgb-bits/0") != make(8, "png-rgb-bits/0")
    assert makers().keys() >= DEAR


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(PARTS))
def test_each_file_ends_in_images_or_an_error_within_limits(judge: Judge, part: int) -> None:
    chosen = cheap()[::EVERY][part::PARTS]
    faults = [(verdict.name, verdict.faults) for name in chosen if (verdict := judge.judge(make(SEED, name))).faults]

    assert len(chosen) > 25
    assert faults == []


@pytest.mark.timeout(300)
def test_a_worker_answers_or_refuses_each_file_and_lives_within_its_memory(
    redis: Redis, queue_settings: QueueSettings, start_worker: StartWorker
) -> None:
    worker = start_worker(VQA_PDF="1", VQA_SLOTS="4", VQA_MEDIA_PROCESSES="2", PYTHONWARNINGS="ignore")
    store = ImageStore(redis)
    good = job(store.put(valid_files()["png-rgb"], TIMEOUT_S), "good")
    with Client(queue_settings) as client:
        files = {name: data for name in crafted() if (data := make(SEED, name).data)}
        outcomes = dict(client.ask_many(job(store.put(data, TIMEOUT_S), name) for name, data in files.items()))
        assert isinstance(client.answer(client.submit(good)), Answer)

    untyped = {id: outcome for id, outcome in outcomes.items() if not isinstance(outcome, Answer | BadImage)}
    assert untyped == {}
    assert len(outcomes) == len(files) > 350
    assert worker.process.poll() is None
    children = {child: peak_bytes(child.pid) for child in psutil.Process(worker.process.pid).children(recursive=True)}
    assert max(children.values()) < BASE_BYTES + LIMITS.decoding_bytes, list(map(mib, children.values()))
    assert peak_bytes(worker.process.pid) < WORKER_BYTES, mib(peak_bytes(worker.process.pid))
    # an expected failure is one line
    assert len(worker.log.read_text().splitlines()) < 2 * len(outcomes) + 100


def job(reference: str, name: str) -> Job:
    content = [{"type": "image", "image": reference}, {"type": "text", "text": "What is this?"}]
    fields = {"id": name.replace("/", "."), "timeout_s": TIMEOUT_S, "messages": [{"role": "user", "content": content}]}
    return Job.from_json(fields)
