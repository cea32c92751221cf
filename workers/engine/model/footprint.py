"""Estimates a model's memory on a card from its config.json and its tensors' headers: no torch, no weights read."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

from vqa.errors import NotReady
from workers.engine.model.hub import file_of, local_file, remote_file, size_on_hub, source, unreadable
from workers.engine.model.quant import (
    SCALE_SUFFIX,
    float8_bytes,
    is_quantized,
    is_released_float8,
    released_quantization,
    stored_bytes,
    unpacked_with,
)
from workers.engine.settings import EngineSettings

#: larger than any model's header; keeps a damaged file from being read into memory
_MAX_HEADER_BYTES = 100_000_000

#: names and shapes
Tensors = Iterator[tuple[str, tuple[int, ...]]]

_DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "int8": 1}


@dataclass(frozen=True, slots=True)
class ModelFootprint:
    """Bytes of a loaded model, and of one token in its KV cache."""

    weights_bytes: int
    kv_token_bytes: int
    #: the largest group of quantized weights that is dequantized at a time
    work_bytes: int = 0


def read_config(settings: EngineSettings) -> Mapping[str, Any]:
    """The model's config.json. Raises NotReady."""
    config: Mapping[str, Any] = json.loads(file_of(settings, "config.json").read_text())
    return config


def read_optional(settings: EngineSettings, name: str) -> Mapping[str, Any] | None:
    """A JSON file of the model; None if it has none, or none that can be had. Raises NotReady if it is not JSON."""
    try:
        file = local_file(settings, name) or remote_file(settings, name)
    except NotReady:
        # the hub is away, and loading will not find the file either
        return None
    try:
        fields: Any = json.loads(file.read_text()) if file else None
    except ValueError:
        raise NotReady(f"{name} of {settings.model} (VQA_MODEL) is not JSON") from None
    return fields if isinstance(fields, dict) else None


def read_footprint(settings: EngineSettings, on_card: bool) -> ModelFootprint:
    """Estimate the model that `settings` names, loaded on a card or on the CPU. Raises NotReady."""
    config = read_config(settings)
    stored = _DTYPE_BYTES.get(str(config.get("dtype") or config.get("torch_dtype") or _text(config).get("dtype")), 4)
    # as in loading.py: the default on a CPU is float32
    loaded = _DTYPE_BYTES[settings.dtype] if settings.dtype != "auto" else stored if on_card else 4
    kv_token_bytes = kv_elements(config) * loaded
    if settings.quant != "none":
        refuse_quantized(settings, config)
        return _quantized(settings, loaded, kv_token_bytes)
    if settings.engine == "continuous" and is_released_float8(config):
        return ModelFootprint(_float8_bytes(settings, loaded), kv_token_bytes)
    return ModelFootprint(_stored_bytes(settings) * loaded // stored, kv_token_bytes)


def refuse_quantized(settings: EngineSettings, config: Mapping[str, Any]) -> None:
    """Raise NotReady if the checkpoint is quantized already: it must be loaded without VQA_QUANT."""
    if released_quantization(config):
        raise NotReady(
            f"{settings.model} (VQA_MODEL) is a quantized checkpoint already: unset VQA_QUANT={settings.quant}"
        )


def kv_elements(config: Mapping[str, Any]) -> int:
    """Count the elements of one token in the KV cache: a key and a value per layer and KV head."""
    text = _text(config)
    try:
        heads = text["num_attention_heads"]
        head_dim = text.get("head_dim") or text["hidden_size"] // heads
        return 2 * int(text["num_hidden_layers"] * (text.get("num_key_value_heads") or heads) * head_dim)
    except (KeyError, TypeError) as error:
        raise NotReady(f"the model's config.json lacks {error}; give the slots (VQA_SLOTS=16)") from None


def free_memory() -> int:
    """Return the machine's available memory in bytes, including caches that can be dropped."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        # not Linux: use the total
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _float8_bytes(settings: EngineSettings, loaded: int) -> int:
    """Return the size of a checkpoint in float8: what has scales takes a byte, scales four, the rest `loaded`."""
    shapes = dict(_tensors(settings))
    scales = {name for name in shapes if name.endswith(SCALE_SUFFIX)}
    sizes = {name: 4 if name in scales else 1 if name + SCALE_SUFFIX in scales else loaded for name in shapes}
    return sum(prod(shape) * sizes[name] for name, shape in shapes.items())


def _quantized(settings: EngineSettings, loaded: int, kv_token_bytes: int) -> ModelFootprint:
    weights, unpacked = 0, Counter[str]()
    # the continuous engine multiplies by the quantized weights
    in_blocks = settings.engine == "continuous"
    for name, shape in _tensors(settings):
        if is_quantized(name, shape):
            weights += float8_bytes(shape) if in_blocks else stored_bytes(settings.quant, shape)
            unpacked[unpacked_with(name)] += prod(shape) * loaded
        else:
            weights += prod(shape) * loaded
    if not unpacked:
        raise NotReady(
            f"VQA_QUANT={settings.quant} does not know the names of the layers of {settings.model} (VQA_MODEL): run it "
            "without VQA_QUANT, or spread it over several cards (VQA_CARDS=0+1)"
        )
    return ModelFootprint(weights, kv_token_bytes, 0 if in_blocks else max(unpacked.values()))


def _stored_bytes(settings: EngineSettings) -> int:
    """Return the size of the stored weights, from local files if there are any, else from the hub."""
    for find in (local_file, remote_file):
        if index := find(settings, "model.safetensors.index.json"):
            return int(json.loads(index.read_text())["metadata"]["total_size"])
        if find is local_file and (weights := local_file(settings, "model.safetensors")):
            return weights.stat().st_size
    folder = Path(source(settings))
    if folder.is_dir():
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return size_on_hub(settings, "model.safetensors")


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def weight_files(settings: EngineSettings) -> Sequence[Path] | None:
    """Return the checkpoint's safetensors files; None if some of them are only on the hub. Raises NotReady."""
    index = local_file(settings, "model.safetensors.index.json")
    if index:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        folder = Path(source(settings))
        names = sorted(file.name for file in folder.glob("*.safetensors")) or ["model.safetensors"]
    files = [local_file(settings, name) for name in names]
    present = [file for file in files if file]
    if len(present) == len(files):
        return present
    if (folder := Path(source(settings))).is_dir():
        raise NotReady(f"the folder {folder} (VQA_MODEL) lacks {names[files.index(None)]}")
    return None


def _tensors(settings: EngineSettings) -> Tensors:
    """Return the checkpoint's tensors, from local files if all are present, else from the hub. Raises NotReady."""
    files = weight_files(settings)
    if files is not None:
        return chain.from_iterable(map(tensors_in, files))
    try:
        return chain(list(tensors_on_hub(settings.model, settings.revision)))
    except Exception as error:
        raise unreadable(settings, "the weights' headers", error) from None


def tensors_in(file: Path) -> Tensors:
    """Read the names and shapes in a local safetensors file. Raises NotReady if it is not one."""
    try:
        with file.open("rb") as stored:
            length = int.from_bytes(stored.read(8), "little")
            if length > _MAX_HEADER_BYTES:
                raise ValueError("header too large")
            header = json.loads(stored.read(length))
        tensors = {name: tuple(map(int, entry["shape"])) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise NotReady(f"{file} is not a safetensors file (VQA_MODEL)") from None
    yield from tensors.items()


def tensors_on_hub(model: str, revision: str | None) -> Tensors:
    """Fetch the names and shapes of a model on the hub. Raises the errors of the hub's client."""
    from huggingface_hub import HfApi

    for file in HfApi().get_safetensors_metadata(model, revision=revision).files_metadata.values():
        for name, entry in file.tensors.items():
            yield name, tuple(entry.shape)
