"""What a model's generation_config.json says: how to sample, and what changes even greedy answers. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vqa.errors import NotReady
from workers.engine.model.footprint import read_optional
from workers.engine.settings import EngineSettings

#: the fields for which transformers' `generate` adds a logits processor without sampling, and the values with which
#: that changes nothing (`_get_logits_processor` in generation/utils.py)
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "exponential_decay_length_penalty": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "remove_invalid_values": (False,),
    "repetition_penalty": (1,),
    "sequence_bias": ({}, []),
    "suppress_tokens": ([],),
    "watermarking_config": (),
}


@dataclass(frozen=True, slots=True)
class Suppressed:
    """Tokens that an answer never has, and those that it does not begin with."""

    always: tuple[int, ...] = ()
    first: tuple[int, ...] = ()


#: of most checkpoints
NOTHING_SUPPRESSED = Suppressed()


@dataclass(frozen=True, slots=True)
class GreedyRules:
    """What changes the greedy answers of a checkpoint and both engines heed."""

    #: of jobs that say none
    repetition_penalty: float = 1.0
    suppressed: Suppressed = NOTHING_SUPPRESSED


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """How tokens are chosen for jobs that do not say it; greedily by default."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def __str__(self) -> str:
        if not self.temperature:
            return "greedily"
        return f"with temperature {self.temperature}, top_p {self.top_p}, top_k {self.top_k}, min_p {self.min_p}"


def processed_fields(settings: EngineSettings, config: Mapping[str, Any]) -> list[str]:
    """Return the fields that change greedy answers and that only `generate` heeds, as `name=value`.

    Raises NotReady if generation_config.json is not JSON.
    """
    fields = _read(settings, config)
    heeded = _heeded(fields)
    return [
        f"{name}={str(fields[name])[:40]}"
        for name, neutral in _NEUTRAL.items()
        if fields.get(name) is not None and fields[name] not in neutral and name not in heeded
    ]


def greedy_rules(fields: Mapping[str, Any]) -> GreedyRules:
    """Return what both engines heed of the `fields` of a generation config."""
    given = {name: fields[name] for name in _heeded(fields)}
    ends = fields.get("eos_token_id")
    # as transformers: a text can always end
    kept = ends if isinstance(ends, list) else [ends]
    bad = [word[0] for word in given.get("bad_words_ids", ()) if word[0] not in kept]
    always = (*given.get("suppress_tokens", ()), *bad)
    first = tuple(given.get("begin_suppress_tokens", ()))
    return GreedyRules(float(given.get("repetition_penalty", 1.0)), Suppressed(always, first))


def sampling_defaults(settings: EngineSettings) -> SamplingDefaults:
    """Return how tokens are chosen for jobs that do not say it, as VQA_SAMPLING_DEFAULTS wants it.

    A checkpoint advises to sample if `do_sample` is true in its generation_config.json. Raises NotReady if that is not
    JSON, or its advice is out of range.
    """
    if settings.sampling_defaults != "checkpoint" or settings.engine == "echo":
        return SamplingDefaults()
    fields = read_optional(settings, "generation_config.json") or {}
    if fields.get("do_sample") is not True:
        return SamplingDefaults()
    temperature, top_p, min_p = (_number(fields, *how) for how in _ADVICE)
    if temperature < 0.01:
        # Qwen2.5-VL's is 0.000001
        return SamplingDefaults()
    top_k = fields.get("top_k") or 0
    if not _is_id(top_k):
        raise NotReady(f"VQA_SAMPLING_DEFAULTS=checkpoint: top_k={top_k!s:.40} of generation_config.json is no count")
    return SamplingDefaults(temperature, top_p, top_k, min_p)


#: names, neutral values and ranges, which are those of a job's fields
_ADVICE = (("temperature", 1.0, 0.0, 2.0), ("top_p", 1.0, 1e-6, 1.0), ("min_p", 0.0, 0.0, 1.0))


def _number(fields: Mapping[str, Any], name: str, neutral: float, least: float, most: float) -> float:
    value = neutral if fields.get(name) is None else fields[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise NotReady(
            f"VQA_SAMPLING_DEFAULTS=checkpoint: {name}={value!s:.40} of generation_config.json is not from {least:g} "
            f"to {most:g}"
        )
    return float(value)


def _heeded(fields: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the fields that `greedy_rules` covers."""
    penalty, words = fields.get("repetition_penalty"), fields.get("bad_words_ids")
    found = {name for name in ("suppress_tokens", "begin_suppress_tokens") if _are_ids(fields.get(name))}
    if isinstance(penalty, int | float) and penalty > 0:
        found.add("repetition_penalty")
    if isinstance(words, list) and all(_are_ids(word) and len(word) == 1 for word in words):
        found.add("bad_words_ids")
    return frozenset(found)


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_id, value))


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _read(settings: EngineSettings, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return generation_config.json, or the model's `config`, where older checkpoints have its fields."""
    fields = read_optional(settings, "generation_config.json")
    return fields if fields is not None else {**(config.get("text_config") or {}), **config}
