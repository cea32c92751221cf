"""Loads a model's processor without the part for videos, for which transformers needs torchvision.

The released torchvision does not import with every build of torch. Images use the image processor's Pillow backend.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.processing_utils import ProcessorMixin

from workers.engine.model.image_sizes import cap_images
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
    kind: Any = PROCESSOR_MAPPING.get(type(config), None)
    # AutoProcessor goes by the checkpoint's own files, which may name another class: Pixtral is a Llava to transformers
    auto = kind is None or _VIDEO not in kind.get_attributes()
    loads: Any = AutoProcessor if auto else without_videos(kind)
    processor = loads.from_pretrained(settings.model, backend="pil", **origin)
    # generation appends to the right end of a row: right padding gives wrong answers without an error
    processor.tokenizer.padding_side = "left"
    cap_images(processor.image_processor, settings)
    if not auto and (frames := frame_processor(kind, settings, origin)) is not None:
        processor.video_processor = frames
    return processor


def without_videos(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """Derive a class from a processor's that neither loads nor needs its video processor."""
    parts = kind.get_attributes()

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
