"""The bundled model on the CPU: through Celery against the engine called directly; 16 jobs in flight against one."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.figures import Row, alternately, rate
from bench.stage import TINY, worker
from producer import Client, Job
from producer.demo.redis_server import EmbeddedRedis
from training.questions import held_out
from vqa.errors import VQAError
from vqa.images.source import read_image
from vqa.settings import QueueSettings
from workers.engine.base import Prompt, SamplingParams, Turn
from workers.engine.factory import choose_engine, make_engine
from workers.engine.settings import EngineSettings
from workers.media.limits import ImageLimits
from workers.media.pool import DecoderPool
from workers.media.request import ImageRequest
from workers.settings import WorkerSettings

SLOTS = 16
#: jobs that a worker with 16 slots holds: those in slots, and those being decoded
IN_FLIGHT = SLOTS + SLOTS // 4
JOBS = 240
#: answers of 64 tokens take ten times as long
LONG_JOBS = 48
REPEATS = 5

Question = tuple[bytes, str]


def rows() -> list[Row]:
    questions = [(read_image(item.image), item.question) for item in held_out(JOBS)]
    with EmbeddedRedis() as server, Client(redis_url=server.url) as client:
        return _short_answers(client, questions) + _long_answers(client, questions[:LONG_JOBS])


def _short_answers(client: Client, questions: list[Question]) -> list[Row]:
    direct = Direct()
    with worker(client, VQA_MODEL=str(TINY), VQA_SLOTS=str(SLOTS)):
        through_celery, called, one_by_one = alternately(
            REPEATS,
            lambda: rate(JOBS, lambda: _ask_all(client, questions, 16)),
            lambda: rate(JOBS, lambda: direct.ask_all(questions)),
            lambda: rate(JOBS // 4, lambda: _one_by_one(client, questions[: JOBS // 4], 16)),
        )
    direct.close()
    return [
        Row.ratio("Celery's share: jobs/s through Celery", through_celery, called, 0.9, "the engine called directly"),
        Row.ratio("together, answers of 2-3 tokens", through_celery, one_by_one, 3, "one job in flight"),
    ]


def _long_answers(client: Client, questions: list[Question]) -> list[Row]:
    with TemporaryDirectory() as folder, worker(client, VQA_MODEL=_endless(Path(folder)), VQA_SLOTS=str(SLOTS)):
        together, one_by_one = alternately(
            REPEATS,
            lambda: rate(len(questions), lambda: _ask_all(client, questions, 64)),
            lambda: rate(len(questions) // 6, lambda: _one_by_one(client, questions[: len(questions) // 6], 64)),
        )
    return [Row.ratio("together, answers of 64 tokens", together, one_by_one, 3, "one job in flight")]


def _endless(folder: Path) -> str:
    """Link the bundled model with an end token that it never generates, so that every answer has its full length."""
    for file in TINY.iterdir():
        (folder / file.name).symlink_to(file)
    for name, change in (
        ("generation_config.json", {"eos_token_id": None}),
        ("config.json", {"eos_token_id": None}),
        ("tokenizer_config.json", {"eos_token": "<|video_pad|>"}),
    ):
        content = json.loads((folder / name).read_text()) | change
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(content))
    return str(folder)


class Direct:
    """A worker's decoder pool and engine in this process, with as many jobs in flight as in a worker."""

    def __init__(self) -> None:
        settings, _ = choose_engine(EngineSettings(model=str(TINY)), cards=0)
        self._engine = make_engine(settings, SLOTS)
        self._crashed = threading.Event()
        self._engine.start(lambda error, ids: self._crashed.set())
        limits = ImageLimits.from_settings(QueueSettings(), settings.max_image_pixels, self._engine.fit)
        self._decoders = DecoderPool(WorkerSettings().decoders, limits)

    def ask_all(self, questions: list[Question]) -> None:
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            list(threads.map(self._ask, range(len(questions)), questions))

    def _ask(self, number: int, question: Question) -> str:
        data, words = question
        [(image,)] = self._decoders.decode([ImageRequest(data)])
        prompt = Prompt(id=str(number), turns=(Turn("user", (image, words)),), params=SamplingParams(16))
        return self._engine.submit(prompt).result().text

    def close(self) -> None:
        self._engine.stop()
        self._decoders.close()


def _ask_all(client: Client, questions: list[Question], tokens: int) -> None:
    ids = client.submit_many(Job.about(data, words, max_new_tokens=tokens, lane="bulk") for data, words in questions)
    for _, outcome in client.answers(ids):
        if isinstance(outcome, VQAError):
            raise outcome
        if tokens > 16 and outcome.usage.completion_tokens != tokens:
            raise RuntimeError(f"an answer has {outcome.usage.completion_tokens} tokens, not {tokens}")


def _one_by_one(client: Client, questions: list[Question], tokens: int) -> None:
    for data, words in questions:
        client.ask(data, words, max_new_tokens=tokens)
