"""Writes random checkpoints of other families of models, of a few thousand numbers: the real classes, nothing learnt.

The tokenizer is the bundled model's with the family's own tokens added; the files are those of a checkpoint on the hub.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.version import Version
from transformers import AutoModelForImageTextToText, AutoTokenizer, GenerationConfig

BUNDLED = Path(__file__).parents[5] / "models/tiny-vl"

#: smaller, and all answers look alike
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.25,
}
TEXT = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 4096}
LLAMA = {**TEXT, "model_type": "llama"}
QWEN2 = {**TEXT, "model_type": "qwen2"}
MISTRAL = {**TEXT, "model_type": "mistral"}
CLIP = {**SMALL, "model_type": "clip_vision_model", "image_size": 32, "patch_size": 8}
SIGLIP = {**CLIP, "model_type": "siglip_vision_model"}

#: of images in one size
SQUARE = {"height": 32, "width": 32}
TILES = {"image_grid_pinpoints": [[32, 64], [64, 32]]}
#: of images in patches of 14 pixels, merged 2 x 2
PATCHES_OF_14 = {"patch_size": 14, "size": {"shortest_edge": 56 * 56, "longest_edge": 280 * 280}}

_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}PLACE{% else %}{{ c['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\\n' }}"
    "{% endfor %}{{ '<|im_start|>assistant\\n' }}"
)

#: gives a token's id
Ids = Callable[[str], int]
Fields = Callable[[Ids], dict[str, Any]]


@dataclass(frozen=True)
class Family:
    """What a family has of its own."""

    #: name of the config's class without `Config`
    kind: str
    #: name of the processor's class without `Processor`
    processor: str
    #: makes the config's fields
    fields: Fields
    #: preprocessor_config.json
    images: Mapping[str, Any]
    #: what its chat template has for an image
    place: str = "<image>"
    #: tokens that the processor finds at its tokenizer, by their names there
    named: Mapping[str, str] = field(default_factory=dict)
    #: further tokens
    tokens: tuple[str, ...] = ("<image>",)
    #: further fields of processor_config.json
    settings: Mapping[str, Any] = field(default_factory=dict)
    #: of transformers
    since: str = "5.17"

    @property
    def is_supported(self) -> bool:
        """Whether the installed transformers runs it without torchvision."""
        return Version(transformers.__version__) >= Version(self.since)


def config_of(text: Mapping[str, Any], vision: Mapping[str, Any], ids: Mapping[str, str], **more: Any) -> Fields:
    """Make a config's fields from those of its two parts; `ids` are tokens whose ids it has, by their fields."""
    return lambda id_of: {
        "text_config": dict(text),
        "vision_config": dict(vision),
        **{name: id_of(token) for name, token in ids.items()},
        **more,
    }


def build(family: Family, folder: Path) -> Path:
    """Write a random checkpoint."""
    given = {"bos_token": "<|im_start|>", "model_specific_special_tokens": dict(family.named)}
    tokenizer: Any = AutoTokenizer.from_pretrained(BUNDLED, **given)
    tokens = {"extra_special_tokens": [*family.named.values(), *family.tokens]}
    tokenizer.add_special_tokens(tokens, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(folder)
    model = _model(family, tokenizer)
    model.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(_TEMPLATE.replace("PLACE", family.place))
    (folder / "preprocessor_config.json").write_text(json.dumps(family.images))
    processor = {"processor_class": f"{family.processor}Processor", **family.settings}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    return folder


def _model(family: Family, tokenizer: Any) -> Any:
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    fields = family.fields(tokenizer.convert_tokens_to_ids)
    fields["text_config"] |= {**ends, "bos_token_id": tokenizer.bos_token_id, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(getattr(transformers, f"{family.kind}Config")(**fields))
    model.generation_config = GenerationConfig(**ends)
    return model
