"""A batch that `vqa submit` sends from the desk and waits for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from PIL import Image

from tests.hosts.site import DESK, WAIT_S, Site
from vqa.ledger.commands import outcome_key


class Batch:
    """Rows about an image, each with a question of its own."""

    def __init__(self, site: Site, folder: Path, rows: int) -> None:
        folder.mkdir()
        self._rows = rows
        self._out, self._log = folder / "answers.jsonl", folder / "log"
        Image.new("RGB", (8, 8)).save(folder / "image.png")
        lines = [{"id": f"r{row}", "image": "image.png", "question": _question(row)} for row in range(rows)]
        source = folder / "rows.jsonl"
        source.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self._site = site
        self._command = ["producer.cli.main", "submit", str(source), "-o", str(self._out)]
        self._program = site.run(DESK, *self._command, log=self._log)

    def finish(self) -> list[dict[str, Any]]:
        """Wait for its end; return its lines, which are one a row with the answer to that row's question.

        No outcome is left in Redis, from which it was deleted when its line was written: it would be a second one.
        """
        code = self._program.process.wait(WAIT_S)
        assert code == 0, f"{code}\n{self._log.read_text()}"
        lines = [json.loads(line) for line in self._out.read_text().splitlines()]
        assert len(lines) == self._rows
        assert {line["id"]: line.get("answer") for line in lines} == {
            f"r{row}": _answer(row) for row in range(self._rows)
        }
        self.is_over(lines)
        return lines

    def is_over(self, lines: list[dict[str, Any]]) -> None:
        """No job is open or given up, and none of these has an outcome."""
        redis = self._site.redis
        assert redis.zrange("vqa:deadlines", 0, -1) == []
        assert redis.zrange("vqa:dead", 0, -1) == []
        assert redis.exists(*(outcome_key(line["job"]) for line in lines)) == 0


def _question(row: int) -> str:
    return f"What is number {row}?"


def _answer(row: int) -> str:
    """As the echo engine answers a question about an image of 8 x 8 pixels."""
    asked = b"8x8\0" + _question(row).encode() + b"\0"
    return f"echo:{hashlib.sha256(asked).hexdigest()[:16]}"
