"""Loads a model's processor without the part for videos, for which transformers needs torchvision.

The released torchvision does not import with every build of torch. Images use the image processor's Pillow backend.
"""

from __future__ import annotations

import sys
from typing import Any

from transformers import AutoProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.processing_utils import ProcessorMixin

from workers.engine.model.footprint import read_optional
from workers.engine.model.hub import source
from workers.engine.model.image_sizes import cap_images
from workers.engine.model.pixtral_processor import PixtralProcessor
from workers.engine.model.video_processor import frame_processor
from workers.engine.settings import EngineSettings

_VIDEO = "video_processor"


class _NoVideos:
    """Stands for the part that is not there; some processors read its settings for chats without videos too."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def load_processor(settings: EngineSettings, config: Any, origin: dict[str, Any]) -> Any:
    """Load the processor of the model with this config; `origin` are arguments of `from_pretrained`."""
    kind = _own_class(settings, config)
    loads: Any = AutoProcessor if kind is None else kind
    processor = loads.from_pretrained(source(settings), backend="pil", **origin)
    # generation appends to the right end of a row: right padding gives wrong answers without an error
    processor.tokenizer.padding_side = "left"
    cap_images(processor.image_processor, settings)
    if kind is not None and (frames := frame_processor(kind, settings, origin)) is not None:
        processor.video_processor = frames
    return processor


def _own_class(settings: EngineSettings, config: Any) -> type[ProcessorMixin] | None:
    """Return the class that loads without torchvision where transformers' own does not; None for AutoProcessor."""
    # the checkpoint's own files come first, as they do for AutoProcessor: Pixtral is a Llava to transformers
    if _class_name(settings) == PixtralProcessor.__name__:
        return PixtralProcessor
    kind: Any = PROCESSOR_MAPPING.get(type(config), None)
    # what is not there reads as a class without parts
    if kind is None or getattr(kind, "is_dummy", False) or _VIDEO not in kind.get_attributes():
        return None
    return without_videos(kind)


def _class_name(settings: EngineSettings) -> str | None:
    """Return the processor's class that the checkpoint names."""
    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        if name := (read_optional(settings, file) or {}).get("processor_class"):
            return str(name)
    return None


def without_videos(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """Derive a class from a processor's that neither loads nor needs its video processor."""
    parts = kind.get_attributes()
    module = sys.modules[kind.__module__]
    if getattr(module, "num2words", "") is None:
        # SmolVLM's processor spells a video's number of frames with it, and asks for it without videos, too
        vars(module)["num2words"] = str

    class Parts(ProcessorMixin):
        """Comes before `kind`."""

        video_processor = _NoVideos()

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in parts if name != _VIDEO]

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
            parent: Any = super()
            loaded = list(parent._get_arguments_from_pretrained(*args, **kwargs))
            # the constructor of `kind` takes it by position
            loaded.insert(parts.index(_VIDEO), None)
            return loaded

    class Rest(ProcessorMixin):
        """Comes between `kind` and ProcessorMixin, whose `__init__` requires all parts and no others."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            given = dict(zip(parts, args, strict=False)) | kwargs
            parent: Any = super()
            parent.__init__(**{name: part for name, part in given.items() if name != _VIDEO})

    return type(kind.__name__, (Parts, kind, Rest), {})
