"""What tests of the answer cache ask, and what an engine ran of it."""

import json
from pathlib import Path
from typing import Any

from producer import Client
from vqa import Answer, Job

WAIT_S = 60.0


def computed(journal: Path) -> list[str]:
    """The jobs that entered a slot."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    return [line["id"] for line in lines if line["event"] == "start"]


def ask(client: Client, image: bytes, question: str = "What is it?", **fields: Any) -> Answer:
    return client.answer(client.submit(Job.about(image, question, **{"reuse": True} | fields)), timeout_s=WAIT_S)
