"""The tensors that a model's safetensors files hold, read from their headers: no weights are opened or fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from vqa.errors import NotReady

#: a header is JSON; larger than any model's, and refused so that a damaged file is not read into memory
_MOST_HEADER_BYTES = 100_000_000

#: name and shape
Tensors = Iterator[tuple[str, tuple[int, ...]]]


def tensors_in(file: Path) -> Tensors:
    """Of one file on this machine. Raises NotReady where it is no safetensors file."""
    try:
        with file.open("rb") as stored:
            length = int.from_bytes(stored.read(8), "little")
            if length > _MOST_HEADER_BYTES:
                raise ValueError("no header")
            header = json.loads(stored.read(length))
        tensors = {name: tuple(map(int, entry["shape"])) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise NotReady(f"{file} is not a safetensors file (VQA_MODEL)") from None
    yield from tensors.items()


def tensors_on_hub(model: str, revision: str | None) -> Tensors:
    """Of a model on the hub. Raises what the hub's client raises."""
    from huggingface_hub import HfApi

    for file in HfApi().get_safetensors_metadata(model, revision=revision).files_metadata.values():
        for name, entry in file.tensors.items():
            yield name, tuple(entry.shape)
