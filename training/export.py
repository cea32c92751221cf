"""Writes the folder that `from_pretrained` loads, in the format of a released Qwen3-VL checkpoint.

Writes the processor's files itself, because the class that would do so needs torchvision.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from training.architecture import generation_config, image_settings
from training.tokenizer import CHAT_TEMPLATE

SHARDS = 2


def export(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the model in bfloat16, its tokenizer and the processor's settings."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_config(model, folder)
    generation_config(tokenizer).save_pretrained(folder)
    _write_weights(model, folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    image = image_settings() | {"processor_class": "Qwen3VLProcessor"}
    video = image | {"do_sample_frames": True, "fps": 2, "min_frames": 4, "max_frames": 16}
    image |= {"image_processor_type": "Qwen2VLImageProcessor"}
    video |= {"video_processor_type": "Qwen3VLVideoProcessor"}
    _write_json(folder / "preprocessor_config.json", image)
    _write_json(folder / "video_preprocessor_config.json", video)
    both = {"image_processor": image, "processor_class": "Qwen3VLProcessor", "video_processor": video}
    _write_json(folder / "processor_config.json", both)


def _write_config(model: Any, folder: Path) -> None:
    config = model.config.to_dict()
    config["architectures"] = [type(model).__name__]
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "bfloat16"
        part.pop("_name_or_path", None)
    _write_json(folder / "config.json", config)


def _write_weights(model: Any, folder: Path) -> None:
    """Write two shards of about the same size and their index, without the head, which is tied to the embedding."""
    weights = {name: value.detach().to("cpu", torch.bfloat16) for name, value in model.state_dict().items()}
    weights.pop("lm_head.weight")
    shards: list[dict[str, torch.Tensor]] = [{} for _ in range(SHARDS)]
    total, seen = sum(value.nbytes for value in weights.values()), 0
    for name, value in weights.items():
        shards[min(SHARDS - 1, seen * SHARDS // total)][name] = value.contiguous()
        seen += value.nbytes
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{SHARDS:05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)
        index |= dict.fromkeys(shard, file)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
