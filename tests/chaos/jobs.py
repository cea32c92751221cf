"""The jobs of a run. Each question is unique, so an answer shows which job it belongs to."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vqa.jobs.job import Job
from workers.engine.base import Prompt, SamplingParams, Turn
from workers.engine.echo.engine import echo_of
from workers.engine.image import RGBImage

#: relative frequencies of the kinds of jobs
KINDS = {
    "plain": 62,
    # with an image
    "image": 6,
    # sent by a Celery app without our code
    "foreign": 8,
    # may miss its deadline
    "brief": 8,
    "cancel": 8,
    # submitted again with the same id
    "twice": 5,
    # its first attempt fails with a transient error
    "transient": 3,
}

#: longer than a run
_LONG_S = 7200.0


@dataclass(frozen=True)
class Case:
    """A job, its kind and the expected answer."""

    job: Job
    kind: str
    expect: str


def draw(random: random.Random, id: str, mix: str) -> Case:
    """Draw a producer's next job; `mix` is `all` or `tiny`."""
    if mix == "tiny":
        return make_case(id, "tiny", 0.002, lane=random.choice(["interactive", "bulk"]))
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
    return make_case(id, kind, delay_s, metadata, size=_size(random) if kind == "image" else None, lane=lane, **fields)


def make_case(
    id: str,
    kind: str,
    delay_s: float,
    metadata: dict[str, str] | None = None,
    size: tuple[int, int] | None = None,
    **fields: Any,
) -> Case:
    """Make a job whose question contains its id, with an image if a size is given."""
    question = f"What is {id}?"
    fields = {"timeout_s": _LONG_S, **fields, "metadata": {"echo_delay_s": f"{delay_s:.4f}", **(metadata or {})}}
    if size is None:
        job = Job(id=id, messages=[{"role": "user", "content": question}], **fields)
        return Case(job, kind, _expected(question))
    image = Image.new("RGB", size, (len(id) * 7 % 256, 90, 160))
    with io.BytesIO() as file:
        image.save(file, "PNG")
        job = Job.about(file.getvalue(), question, id=id, **fields)
    return Case(job, kind, _expected(RGBImage.from_pil(image), question))


def _expected(*parts: str | RGBImage) -> str:
    return echo_of(Prompt("", (Turn("user", parts),), SamplingParams(1)))


def _delay_s(random: random.Random) -> float:
    """Draw a duration: mostly milliseconds, sometimes seconds."""
    part = random.random()
    if part < 0.45:
        return random.uniform(0.001, 0.005)
    return 0.005 * 100 ** random.random() if part < 0.8 else random.uniform(0.5, 2)


def _size(random: random.Random) -> tuple[int, int]:
    return random.randint(8, 64), random.randint(8, 64)
