"""Two cards of one machine under one supervisor: both work, and if one fails the other goes on."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from producer import Answer, Client, Job
from tests.worker_process import ROOT, TINY
from training.questions import Item, held_out
from vqa.settings import QueueSettings
from workers.cards import requested_cards

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(300),
    pytest.mark.skipif(len(requested_cards("")) < 2, reason="needs two cards"),
]

WAIT_S = 100.0


def test_a_card_whose_worker_keeps_dying_is_given_up_and_its_jobs_go_to_the_other(
    queue_settings: QueueSettings, redis_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "supervisor.log"
    settings = {"VQA_REDIS_URL": redis_url, "VQA_CARDS": "0,1", "VQA_RESTARTS": "2", "VQA_LEASE_S": "3"}
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "workers", "--model", str(TINY)],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    items = {f"q{number}": item for number, item in enumerate(held_out(600))}
    done = threading.Event()
    killer = threading.Thread(target=_kill_card_1, args=(supervisor.pid, log, done))
    try:
        with Client(queue_settings) as client:
            while len(client.workers()) < 2:
                assert supervisor.poll() is None, log.read_text()
                time.sleep(0.2)
            both = dict(client.answers(_submit(client, items, "both"), timeout_s=WAIT_S))
            killer.start()
            under_fire = dict(client.answers(_submit(client, items, "fire"), timeout_s=WAIT_S))
            end = time.monotonic() + WAIT_S
            while "card1: given up" not in log.read_text():
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.2)
            alone = dict(client.answers(_submit(client, items, "alone"), timeout_s=WAIT_S))
    finally:
        done.set()
        supervisor.terminate()
        assert supervisor.wait(60) == 0
    for outcomes in (both, under_fire, alone):
        right = [
            isinstance(end, Answer) and end.text.strip() == items[id.partition("-")[2]].answer
            for id, end in outcomes.items()
        ]
        assert sum(right) >= 0.95 * len(items)
    names = [Counter(end.worker.partition("@")[0] for end in ends.values()) for ends in (both, under_fire, alone)]
    print(names, log.read_text()[-3000:])
    assert set(names[0]) == {"card0", "card1"}
    assert set(names[2]) == {"card0"}


def _submit(client: Client, items: dict[str, Item], prefix: str) -> list[str]:
    return client.submit_many(
        Job.about(item.image, item.question, id=f"{prefix}-{id}", lane="bulk", max_new_tokens=16)
        for id, item in items.items()
    )


def _kill_card_1(supervisor: int, log: Path, done: threading.Event) -> None:
    """Kill the worker of card 1 each time it becomes ready."""
    killed: set[int] = set()
    while not done.wait(0.2):
        for process in psutil.Process(supervisor).children():
            with contextlib.suppress(psutil.Error):
                due = log.read_text().count("card1: ready") > len(killed) and process.pid not in killed
                if due and any("card1@" in word for word in process.cmdline()):
                    killed.add(process.pid)
                    process.kill()
