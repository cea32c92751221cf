"""Which fields of a model's generation_config.json change even greedy answers. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.engine.model.footprint import read_optional
from workers.engine.settings import EngineSettings

#: the fields for which transformers' `generate` adds a logits processor without sampling, and the values with which
#: that changes nothing (`_get_logits_processor` in generation/utils.py). Sampling is the job's own in all engines.
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


def processed_fields(settings: EngineSettings, config: Mapping[str, Any]) -> list[str]:
    """Return such fields as `name=value`, from generation_config.json or else from the model's `config`.

    Raises NotReady if the file is not JSON.
    """
    fields = read_optional(settings, "generation_config.json")
    if fields is None:
        # older checkpoints have them there
        fields = {**(config.get("text_config") or {}), **config}
    return [
        f"{name}={str(fields[name])[:40]}"
        for name, neutral in _NEUTRAL.items()
        if fields.get(name) is not None and fields[name] not in neutral
    ]
