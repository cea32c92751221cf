"""Probabilities of choices and several answers: the bundled model through Redis, a worker and the command."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from producer import Client
from tests.producer.conftest import COMMAND
from tests.worker_process import TINY, StartWorker
from training.questions import held_out

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True, params=["continuous", "pipeline"])
def _worker(start_worker: StartWorker, request: pytest.FixtureRequest) -> None:
    start_worker(VQA_ENGINE=request.param, VQA_MODEL=str(TINY), VQA_SLOTS="16")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_doubtful_answers_go_to_people_and_the_others_do_not(client: Client, tmp_path: Path, redis_url: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    items = list(held_out(4))
    for number, item in enumerate(items):
        item.image.save(images / f"{number}.png")
    # nobody can know what noise shows
    Image.frombytes("RGB", (160, 160), Random(0).randbytes(160 * 160 * 3)).save(images / "noise.png")
    choices = [
        f"--choice={colour}" for colour in ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")
    ]
    arguments = ("images", "--question", "What colour is it?", *choices, "-o", "out.jsonl")
    review = ("--review-below", "0.9999", "--review", "review.jsonl", "--quiet")
    command = [*COMMAND, "submit", *arguments, *review]
    environment = {**os.environ, "VQA_REDIS_URL": redis_url}
    for _ in range(2):
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=100)

    answered = {line["custom_id"]: line["response"]["body"]["vqa"]["choices"] for line in lines(tmp_path / "out.jsonl")}
    assert len(answered) == 5
    assert all(math.fsum(found.values()) == pytest.approx(1, abs=1e-9) for found in answered.values())
    doubtful = {id: found for id, found in answered.items() if max(found.values()) < 0.9999}
    assert "noise.png" in doubtful
    assert {line["id"]: line["choices"] for line in lines(tmp_path / "review.jsonl")} == doubtful


def test_a_job_gets_probabilities_or_several_answers(client: Client) -> None:
    [item] = held_out(1)
    format = {"type": "choice", "choices": [item.answer, "nothing of it"], "probabilities": True}
    chosen = client.ask(item.image, item.question, response_format=format)
    assert (chosen.text, chosen.parsed, chosen.finish_reason) == (item.answer, item.answer, "stop")
    assert chosen.choices is not None
    assert chosen.choices[item.answer] > 0.9

    noise = Image.frombytes("RGB", (160, 160), Random(0).randbytes(160 * 160 * 3))
    several = client.ask(noise, "What is it?", n=5, temperature=2.0, seed=3, max_new_tokens=8)
    texts = [several.text, *(each.text for each in several.alternatives)]
    assert len(texts) == 5
    assert len(set(texts)) > 1
    again = client.ask(noise, "What is it?", n=5, temperature=2.0, seed=3, max_new_tokens=8)
    assert [again.text, *(each.text for each in again.alternatives)] == texts
