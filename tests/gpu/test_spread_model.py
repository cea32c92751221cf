"""A model spread over two cards answers as it does on one."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from producer import Answer, Client, Job
from tests.worker_process import ROOT, TINY
from tests.workers.engine.conftest import ask_about
from training.questions import held_out
from vqa.settings import QueueSettings
from workers.cards import requested_cards
from workers.engine.pipeline.engine import PipelineEngine
from workers.engine.settings import EngineSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(300),
    pytest.mark.skipif(len(requested_cards("")) < 2, reason="needs two cards"),
]

WAIT_S = 120.0
#: too little for the bundled model in float32, so that some of its layers go to the second card
FIRST_CARD_BYTES = 36_000_000


def supervised(client: Client, redis_url: str, cards: str, log: Path) -> tuple[dict[str, Answer], str]:
    """Return the answers of one worker with these cards, and its log."""
    items = {f"{cards}-{number}": item for number, item in enumerate(held_out(100))}
    jobs = (Job.about(item.image, item.question, id=id, lane="bulk", max_new_tokens=16) for id, item in items.items())
    # float32, so that neither the card of a layer nor the other prompts of a microbatch change an answer
    settings = {"VQA_REDIS_URL": redis_url, "VQA_CARDS": cards, "VQA_DTYPE": "float32", "VQA_ENGINE": "pipeline"}
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "workers", "--model", str(TINY)],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        outcomes = dict(client.answers(client.submit_many(jobs), timeout_s=WAIT_S))
    finally:
        supervisor.terminate()
        assert supervisor.wait(WAIT_S) == 0
    print(log.read_text())
    answers = {id: outcome for id, outcome in outcomes.items() if isinstance(outcome, Answer)}
    right = [answers[id].text.strip() == items[id].answer for id in items]
    assert sum(right) >= 0.95 * len(items)
    return answers, log.read_text()


def test_one_worker_owns_both_cards_and_answers_as_with_one(
    queue_settings: QueueSettings, redis_url: str, tmp_path: Path
) -> None:
    with Client(queue_settings) as client:
        spread, log = supervised(client, redis_url, "0+1", tmp_path / "spread.log")
        single, _ = supervised(client, redis_url, "0", tmp_path / "single.log")

    assert {answer.worker.partition("@")[0] for answer in spread.values()} == {"card0+1"}
    assert "cards 0+1: 64 slots; " in log
    texts = [{id.partition("-")[2]: answer.text for id, answer in answers.items()} for answers in (spread, single)]
    assert texts[0] == texts[1]


def test_layers_on_both_cards_compute_what_they_do_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from workers.engine.model import loading

    load = loading.AutoModelForImageTextToText.from_pretrained
    models: list[Any] = []

    def placing(place: dict[str, Any]) -> None:
        """Place the model explicitly: `auto` puts one this small on one card."""

        def from_pretrained(name: str, **how: Any) -> Any:
            models.append(load(name, **(how | place)))
            return models[-1]

        monkeypatch.setattr(loading.AutoModelForImageTextToText, "from_pretrained", from_pretrained)

    def texts() -> list[str]:
        settings = EngineSettings(model=str(TINY), dtype="float32")
        engine = PipelineEngine(settings, slots=32)
        engine.start(lambda error, ids: pytest.fail(f"the engine crashed: {error!r}"))
        try:
            items = enumerate(held_out(50))
            futures = [engine.submit(ask_about(item, f"q{number}")) for number, item in items]
            return [future.result(timeout=WAIT_S).text for future in futures]
        finally:
            engine.stop()

    placing({"device_map": {"": 0}})
    expected = texts()
    placing({"device_map": "sequential", "max_memory": {0: FIRST_CARD_BYTES, 1: 8 * 2**30}})
    spread = texts()

    layers = models[-1].model.language_model.layers
    assert {parameter.device for parameter in layers.parameters()} == {torch.device("cuda", 0), torch.device("cuda", 1)}
    assert spread == expected
