"""The bundled model answers alike about images that were scaled before they were stored."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from redis import Redis

from producer import Client, Shrink
from tests.worker_process import ROOT, TINY, StartWorker
from training.questions import held_out
from vqa import Answer, Job

WAIT_S = 100.0

pytestmark = pytest.mark.timeout(240)


def photo(image: Image.Image) -> bytes:
    """The image as if a camera had taken it: large, with some grain."""
    large = image.convert("RGB").resize((1024, 1024), Image.Resampling.BICUBIC)
    grain = Image.effect_noise(large.size, 20).convert("RGB")
    file = io.BytesIO()
    ImageChops.blend(large, grain, 0.05).save(file, "JPEG", quality=95)
    return file.getvalue()


def ask(client: Client, jobs: list[Job]) -> dict[str, Answer]:
    answers = {}
    for id, outcome in client.ask_many(jobs):
        assert isinstance(outcome, Answer), outcome
        answers[id.partition(":")[0]] = outcome
    return answers


def stored_bytes(redis: Redis) -> int:
    return sum(redis.strlen(key) for key in redis.keys("vqa:image:*"))


def test_answers_are_equal_and_less_is_stored(
    client: Client, redis: Redis, redis_url: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker(VQA_MODEL=str(TINY), VQA_ENGINE="continuous", VQA_SLOTS="8", VQA_MAX_IMAGE_TOKENS="36")
    items = {f"q{number}": item for number, item in enumerate(held_out(4))}
    photos = {id: photo(item.image) for id, item in items.items()}

    def jobs(how: str) -> list[Job]:
        detail = {"q0": "low", "q1": "high"}
        parts = {
            id: (
                {"type": "image", "image": photos[id], "detail": detail.get(id, "auto")},
                {"type": "text", "text": item.question},
            )
            for id, item in items.items()
        }
        return [
            Job(id=f"{id}:{how}", messages=[{"role": "user", "content": content}], max_new_tokens=16)
            for id, content in parts.items()
        ]

    sizes, answers = {}, {}
    for how, shrink in {"whole": False, "exact": True, "jpeg": Shrink(quality=95)}.items():
        redis.delete(*redis.keys("vqa:image:*") or ["none"])
        with Client(client.settings, shrink=shrink) as asking:
            answers[how] = ask(asking, jobs(how))
        sizes[how] = stored_bytes(redis)

    def seen(how: str) -> dict[str, tuple[object, ...]]:
        shown = {id: answer.images[0] for id, answer in answers[how].items()}
        return {id: (answers[how][id].text, each.width, each.height, each.tokens) for id, each in shown.items()}

    assert seen("exact") == seen("whole")
    assert seen("jpeg") == seen("whole")
    assert {answers["exact"][id].images[0].tokens for id in ("q0", "q1", "q2")} == {36, 64}
    assert sizes["jpeg"] < sizes["exact"] < sizes["whole"]

    _submit(redis_url, tmp_path, photos, {id: item.question for id, item in items.items()}, answers["whole"])


def _submit(
    redis_url: str, folder: Path, photos: dict[str, bytes], questions: dict[str, str], expected: dict[str, Answer]
) -> None:
    """Ask once more by `vqa submit --shrink`; the details differ from before in q0 and q1 only."""
    rows = []
    for id, data in photos.items():
        (folder / f"{id}.jpg").write_bytes(data)
        rows.append({"id": id, "image": f"{id}.jpg", "question": questions[id], "max_new_tokens": 16})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-W", "error", "-m", "producer.cli.main", "submit", "rows.jsonl", "-o", "out.jsonl"]
    environment = os.environ | {"VQA_REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--shrink"], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{len(photos)} images shrunk: " in done.stderr
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    texts = {line["id"]: line["answer"] for line in lines}
    assert {id: texts[id] for id in texts if id not in ("q0", "q1")} == {
        id: answer.text for id, answer in expected.items() if id not in ("q0", "q1")
    }
