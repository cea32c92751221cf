"""The code blocks of README.md and docs/*.md, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: decisions.md and engine-log.md are dated records of how things were
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "README.zh-CN.md",
    ROOT / "CONTRIBUTING.md",
    *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in ("decisions.md", "engine-log.md")),
]

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n+)?```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
_INLINE = re.compile(r"`(vqa [^`\n]+)`")
_ASSIGNMENT = re.compile(r"\w+=")
#: between commands of one line
_SEPARATORS = {"|", "||", "&&", "&", "<", ">", ">>", "2>"}


@dataclass(frozen=True)
class Block:
    document: str
    line: int
    language: str
    text: str
    #: why it cannot be run, from the comment `<!-- not run: REASON -->` before it
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def read(document: Path) -> list[Block]:
    text = document.read_text()
    return [
        Block(
            document.name,
            text.count("\n", 0, found.start("text")) + 1,
            found["language"] or "text",
            found["text"],
            found["reason"],
        )
        for found in _BLOCK.finditer(text)
    ]


def commands(document: Path) -> list[tuple[str, list[str]]]:
    """Return the place and the arguments of each `vqa ...` in blocks and in running text."""
    found = [
        (block.place, arguments)
        for block in read(document)
        if block.language in ("text", "bash", "sh", "console")
        for line in _lines(block.text)
        for arguments in _calls(line)
    ]
    prose = _BLOCK.sub("", document.read_text())
    inline = [(f"{document.name}: `{text}`", each) for text in _INLINE.findall(prose) for each in _calls(text)]
    # running text names an option without its value
    return found + [(place, [*each, "VALUE"] if "".join(each[-1:]).startswith("-") else each) for place, each in inline]


def _lines(text: str) -> Iterator[str]:
    """Join lines that end in a backslash."""
    yield from re.sub(r"\\\n\s*", " ", text).splitlines()


def _calls(line: str) -> Iterator[list[str]]:
    try:
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError:
        # a part of a text in several lines
        return
    while words:
        end = next((at for at, word in enumerate(words) if word in _SEPARATORS), len(words))
        command, words = words[:end], words[end + 1 :]
        while command and _ASSIGNMENT.match(command[0]):
            command = command[1:]
        if command[:1] == ["vqa"]:
            yield command[1:]
