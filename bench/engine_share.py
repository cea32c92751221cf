"""The bundled model on the CPU: through Celery against the same engine called directly; 16 in flight against one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from bench.figures import Row, alternately, rate
from bench.stage import TINY, worker
from producer import Client, Job
from producer.embedded import EmbeddedRedis
from training.questions import Item, held_out
from vqa.errors import VQAError
from vqa.settings import QueueSettings
from workers.engine.base import Prompt, Turn
from workers.engine.pipeline import PipelineEngine
from workers.engine.settings import EngineSettings
from workers.media import Media

SLOTS = 16
#: what a worker process with 16 slots has in its hands: slots and look-ahead
IN_FLIGHT = SLOTS + SLOTS // 4
JOBS = 320
REPEATS = 5


def rows() -> list[Row]:
    """Measure."""
    questions = [(_png(item), item.question) for item in held_out(JOBS)]
    direct = Direct()
    with EmbeddedRedis() as server, Client(redis_url=server.url) as client:
        model = {"VQA_MODEL": str(TINY), "VQA_SLOTS": str(SLOTS)}
        with worker(client, **model):
            through_celery, called, one_by_one = alternately(
                REPEATS,
                lambda: rate(JOBS, lambda: _ask_all(client, questions)),
                lambda: rate(JOBS, lambda: direct.ask_all(questions)),
                lambda: rate(JOBS // 4, lambda: _one_by_one(client, questions[: JOBS // 4])),
            )
    direct.close()
    return [
        Row.ratio("Celery's share: jobs/s through Celery", through_celery, called, 0.9, "the engine called directly"),
        Row.ratio("microbatching: 16 slots full", through_celery, one_by_one, 3, "one job in flight"),
    ]


class Direct:
    """The worker's media and engine in this process, with as many jobs in flight as a worker has."""

    def __init__(self) -> None:
        settings = EngineSettings(model=str(TINY))
        self._engine = PipelineEngine(settings, SLOTS)
        self._crashed = threading.Event()
        self._engine.start(lambda error: self._crashed.set())
        limits = QueueSettings()
        self._media = Media(4, limits.image_max_bytes, limits.image_max_pixels, settings.max_image_pixels)

    def ask_all(self, questions: list[tuple[bytes, str]]) -> None:
        """Answer all of them."""
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            list(threads.map(self._ask, range(len(questions)), questions))

    def _ask(self, number: int, question: tuple[bytes, str]) -> str:
        data, words = question
        (picture,) = self._media.decode([data])
        prompt = Prompt(id=str(number), turns=(Turn("user", (picture, words)),), max_new_tokens=16)
        return self._engine.submit(prompt).result().text

    def close(self) -> None:
        """Let the model go."""
        self._engine.stop()
        self._media.close()


def _png(item: Item) -> bytes:
    from vqa.image import read_image

    return read_image(item.image)


def _ask_all(client: Client, questions: list[tuple[bytes, str]]) -> None:
    ids = client.submit_many(Job.about(data, words, max_new_tokens=16, lane="bulk") for data, words in questions)
    for _, outcome in client.answers(ids):
        if isinstance(outcome, VQAError):
            raise outcome


def _one_by_one(client: Client, questions: list[tuple[bytes, str]]) -> None:
    for data, words in questions:
        client.ask(data, words, max_new_tokens=16)
