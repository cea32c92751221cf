"""Loads a model as `transformers.pipeline("image-text-to-text")`, without torchvision, and adapts it."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, AutoModelForImageTextToText, pipeline
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline

from vqa.errors import NotReady, VQAError
from workers.engine.model.footprint import refuse_quantized
from workers.engine.model.hub import first_line, source, unreachable
from workers.engine.model.processor import load_processor
from workers.engine.model.quant import runs_in_float8
from workers.engine.model.quantize import quantization_arguments
from workers.engine.settings import EngineSettings

#: model types of transformers
_QWEN3_VL = frozenset({"qwen3_vl", "qwen3_vl_moe"})


class PatchLinear(nn.Module):
    """A linear layer that replaces a Conv3d whose input patches have the size of its kernel; shares its weights."""

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.weight = nn.Parameter(convolution.weight.flatten(1), requires_grad=False)
        self.bias = convolution.bias

    def forward(self, patches: Tensor) -> Tensor:
        """Map (patches, channels, time, height, width) to (patches, embedding)."""
        return linear(patches.flatten(1), self.weight, self.bias)


def replace_patch_embedding(model: Any) -> None:
    """Replace the Conv3d of a Qwen3-VL model's patch embedding in place."""
    embedding = model.model.visual.patch_embed
    embedding.proj = PatchLinear(embedding.proj)


def load(settings: EngineSettings) -> ImageTextToTextPipeline:
    """Load the pipeline that `settings` names, spread over the visible cards. Raises NotReady.

    Each call loads its own model, tokenizer and processor: threads cannot share them.
    """
    try:
        return _load(settings, "cuda" if torch.cuda.is_available() else "cpu")
    except VQAError:
        raise
    except torch.OutOfMemoryError:
        raise NotReady(
            f"{settings.model} (VQA_MODEL) does not fit the card's free memory; use a smaller model, or fewer replicas "
            f"(VQA_REPLICAS={settings.replicas})"
        ) from None
    except Exception as error:
        if "couldn't connect to" in str(error):
            raise unreachable(settings, error) from error
        # transformers, the hub's client and safetensors raise many kinds of errors; the log shows the cause
        raise NotReady(f"cannot load {settings.model} (VQA_MODEL): {first_line(error)}; {_advice(error)}") from error


def eos_ids(pipe: Any) -> frozenset[int]:
    """Return the end-of-text tokens of the model's generation config and of its tokenizer."""
    config, tokenizer = pipe.model.generation_config, pipe.tokenizer
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return frozenset(id for id in (*ends, tokenizer.eos_token_id) if id is not None)


def _load(settings: EngineSettings, device: str) -> ImageTextToTextPipeline:
    origin: dict[str, Any] = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
    config = AutoConfig.from_pretrained(source(settings), **origin)
    processor = load_processor(settings, config, origin)
    dtype = settings.dtype if settings.dtype != "auto" or device != "cpu" else "float32"
    if runs_in_float8(settings, config.to_dict()):
        model = _without_layers(settings, config, dtype, origin)
    else:
        how = {"config": config, "dtype": dtype} | _placed(settings, config, dtype, device)
        model = AutoModelForImageTextToText.from_pretrained(source(settings), **how, **origin)
    if config.model_type in _QWEN3_VL:
        replace_patch_embedding(model)
    # accelerate has placed a spread model; its inputs go to the first card
    place = None if _cards_of(model) else device
    loaded = pipeline("image-text-to-text", model=model.eval(), processor=processor, device=place)
    assert isinstance(loaded, ImageTextToTextPipeline)
    return loaded


def _without_layers(settings: EngineSettings, config: Any, dtype: str, origin: dict[str, Any]) -> Any:
    """Load a model without its language layers, which the continuous engine reads in float8.

    In its config the model keeps the number of its layers.
    """
    if settings.quant != "none":
        refuse_quantized(settings, config.to_dict())
    text = config.get_text_config()
    for each in (config, text):
        # or transformers would make its own float8 modules
        if hasattr(each, "quantization_config"):
            del each.quantization_config
    layers, text.num_hidden_layers = text.num_hidden_layers, 0
    kind: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    # of the tensors of the layers, transformers would report each as unexpected
    ignored = {"_keys_to_ignore_on_load_unexpected": [r"\blanguage_model\.(model\.)?layers\."]}
    exact = dtype if dtype != "auto" else _dtype_of(config)
    without_layers: Any = type(kind.__name__, (kind,), ignored)
    model = without_layers.from_pretrained(source(settings), config=config, dtype=exact, **origin)
    model.config.get_text_config().num_hidden_layers = layers
    return model


def _placed(settings: EngineSettings, config: Any, dtype: str, device: str) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for placing the weights and quantizing them as they are loaded."""
    if settings.quant != "none":
        refuse_quantized(settings, config.to_dict())
    exact = getattr(torch, dtype) if dtype != "auto" else _dtype_of(config)
    quantized = quantization_arguments(settings, config, exact)
    if device != "cpu" and torch.cuda.device_count() > 1:
        return quantized | {"device_map": "auto"}
    return quantized | {"device_map": {"": device}} if quantized else {}


def _dtype_of(config: Any) -> torch.dtype:
    stored = config.dtype or config.get_text_config().dtype or torch.float32
    return stored if isinstance(stored, torch.dtype) else getattr(torch, stored)


def _cards_of(model: Any) -> set[Any]:
    """Return the devices of a spread model; empty for a model on one device. Raises NotReady."""
    devices = set(getattr(model, "hf_device_map", {}).values())
    if devices & {"cpu", "disk"}:
        raise NotReady(
            f"{model.name_or_path} (VQA_MODEL) does not fit the free memory of its cards (VQA_CARDS): parts would be "
            "in the machine's memory, which is too slow; use more cards, a smaller model or VQA_QUANT"
        )
    return devices


def _advice(error: BaseException) -> str:
    """Say what to do, by transformers' messages for the three most common causes."""
    words = str(error)
    if "trust_remote_code" in words:
        return "read that code, and set VQA_TRUST_REMOTE_CODE=1 to run it"
    if "video processor" in words or "torchvision" in words.lower():
        return (
            f"the processor of this model needs torchvision: install the torchvision built for torch "
            f"{torch.__version__}, or try a later transformers than {transformers.__version__}, which may do without "
            "(docs/models.md)"
        )
    if isinstance(error, ImportError):
        return "install that package"
    return "check the name, the network and HF_TOKEN, or give a local folder"
