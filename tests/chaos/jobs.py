"""The jobs that are asked: each question is unique, so the answer says whose it is."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vqa.job import Job
from workers.engine.base import Prompt, Turn
from workers.engine.echo.engine import echo_of
from workers.engine.image import RGBImage

#: how often a producer asks for each kind
KINDS = {
    "plain": 62,
    # with an image
    "image": 6,
    # through a Celery app that has none of our code
    "foreign": 8,
    # its deadline may come first
    "brief": 8,
    "cancel": 8,
    # the same id is submitted again
    "twice": 5,
    # its first attempt fails with a transient error
    "transient": 3,
}

#: no deadline of these jobs passes in a run
_LONG_S = 7200.0


@dataclass(frozen=True)
class Asked:
    """A job, what it is for, and the answer that it must get."""

    job: Job
    kind: str
    expect: str


def draw(random: random.Random, id: str, mix: str) -> Asked:
    """A producer's next job, of all kinds or `tiny`."""
    if mix == "tiny":
        return ask(id, "tiny", 0.002, lane=random.choice(["interactive", "bulk"]))
    [kind] = random.choices(list(KINDS), list(KINDS.values()))
    delay_s, fields = _delay_s(random), dict[str, Any]()
    metadata = {}
    if kind == "brief":
        delay_s, fields["timeout_s"] = random.uniform(0, 2), random.uniform(0.1, 2)
    elif kind == "cancel":
        delay_s = random.uniform(0.2, 2)
    elif kind == "transient":
        metadata = {"echo_fail": "EngineError", "echo_fail_attempts": "1"}
        fields["retry"] = {"attempts": 8, "base_s": 0.3}
    lane = random.choices(["interactive", "bulk"], [6, 4])[0]
    return ask(id, kind, delay_s, metadata, size=_size(random) if kind == "image" else None, lane=lane, **fields)


def ask(
    id: str,
    kind: str,
    delay_s: float,
    metadata: dict[str, str] | None = None,
    size: tuple[int, int] | None = None,
    **fields: Any,
) -> Asked:
    """The job of that id: a question with its id in it, and an image of that size where one is given."""
    question = f"What is {id}?"
    fields = {"timeout_s": _LONG_S, **fields, "metadata": {"echo_delay_s": f"{delay_s:.4f}", **(metadata or {})}}
    if size is None:
        job = Job(id=id, messages=[{"role": "user", "content": question}], **fields)
        return Asked(job, kind, _expected(question))
    image = Image.new("RGB", size, (len(id) * 7 % 256, 90, 160))
    with io.BytesIO() as file:
        image.save(file, "PNG")
        job = Job.about(file.getvalue(), question, id=id, **fields)
    return Asked(job, kind, _expected(RGBImage.from_pil(image), question))


def _expected(*parts: str | RGBImage) -> str:
    return echo_of(Prompt("", (Turn("user", parts),), max_new_tokens=1))


def _delay_s(random: random.Random) -> float:
    """Most take milliseconds, some seconds."""
    part = random.random()
    if part < 0.45:
        return random.uniform(0.001, 0.005)
    return 0.005 * 100 ** random.random() if part < 0.8 else random.uniform(0.5, 2)


def _size(random: random.Random) -> tuple[int, int]:
    return random.randint(8, 64), random.randint(8, 64)
