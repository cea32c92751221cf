"""The code in the documents works: Python runs, commands have the options they are shown with, data can be parsed."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.blocks import DOCUMENTS, ROOT, Block, commands, read
from tests.docs.command_line import UsageError, check
from tests.docs.conftest import Service

PYTHON = [path for path in DOCUMENTS if any(block.language == "python" for block in read(path))]


def load_lines(text: str) -> Any:
    """Parse one JSON value, or one a line."""
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


LOADERS: dict[str, Callable[[str], Any]] = {
    "json": load_lines,
    "jsonl": load_lines,
    "yaml": lambda text: [*yaml.safe_load_all(text)],
    "toml": tomllib.loads,
}
DATA = [block for path in DOCUMENTS for block in read(path) if block.language in LOADERS]


@pytest.fixture
def files(here: Path) -> None:
    """Put the files that the documents name into the folder in which the code runs."""
    (here / "examples").symlink_to(ROOT / "examples")
    for name in ("cat.jpg", "IMG_1234.jpg"):
        shutil.copyfile(ROOT / "examples" / "images" / "rocket.jpg", here / name)
    shutil.copyfile(ROOT / "examples" / "images" / "shape-07.png", here / "contract.png")
    body = {"messages": [{"role": "user", "content": "Why?"}]}
    row = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (here / "rows.jsonl").write_text(json.dumps(row) + "\n")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("document", PYTHON, ids=lambda path: path.name)
def test_python_runs(document: Path, service: Service) -> None:
    # in a process of its own, as it may set up what holds for a whole process, such as traces
    command = [sys.executable, "-m", "tests.docs.run_blocks", str(document), service.gateway_url]
    environment = {**os.environ, "VQA_REDIS_URL": service.redis_url, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist_with_their_options(document: Path) -> None:
    wrong = []
    for place, arguments in commands(document):
        try:
            check(arguments)
        except UsageError as error:
            wrong.append(f"{place}: {error.format_message()}")
    assert wrong == []


@pytest.mark.parametrize("block", DATA, ids=lambda block: block.place)
def test_data_can_be_parsed(block: Block) -> None:
    assert LOADERS[block.language](block.text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "a.jsonl", "--outptu", "b.jsonl"], "No such option"),
        (["sumbit"], "no command"),
        (["worker", "--slot", "4"], "No such option"),
        (["dlq", "retry", "--forever"], "No such option"),
        (["ask", "--redis-url"], "requires an argument"),
    ],
    ids=["option", "command", "of the worker", "of a subcommand", "without its value"],
)
def test_a_wrong_command_is_found(arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        check(arguments)
    assert said in raised.value.format_message()


def test_commands_are_found_in_blocks_and_in_text(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "As `vqa status --watch` says:\n\n```\n$ VQA_SLOTS=1 vqa ask a.png \\\n    'Why?' | tee b # vqa c\nvqa_d\n```\n"
        "<!-- not run: needs a card -->\n```python\npass\n```\n"
    )
    assert [arguments for _, arguments in commands(document)] == [
        ["ask", "a.png", "Why?"],
        ["status", "--watch", "VALUE"],
    ]
    assert [(block.language, block.not_run) for block in read(document)] == [("text", None), ("python", "needs a card")]
