"""Reads single tensors of a model's safetensors files, straight to a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor, device

from vqa.errors import NotReady
from workers.engine.model.footprint import weight_files
from workers.engine.settings import EngineSettings


class Checkpoint:
    """Open files, as long as `open_checkpoint` lasts."""

    def __init__(self, model: str, files: dict[str, Any]) -> None:
        self.model = model
        #: by the name of a tensor
        self._files = files

    @property
    def names(self) -> Sequence[str]:
        return tuple(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> Tensor:
        """Read a tensor. Raises NotReady if there is none of this name, or it is damaged."""
        if name not in self._files:
            raise NotReady(f"the checkpoint {self.model} (VQA_MODEL) has no tensor {name}")
        try:
            return cast(Tensor, self._files[name].get_tensor(name))
        except SafetensorError as error:
            raise NotReady(f"{name} of {self.model} (VQA_MODEL) cannot be read: {error}") from None


@contextmanager
def open_checkpoint(settings: EngineSettings, to: device) -> Iterator[Checkpoint]:
    """Open the files of a model that has been downloaded; tensors are read to the device `to`. Raises NotReady."""
    paths = weight_files(settings)
    if paths is None:
        raise NotReady(f"{settings.model} (VQA_MODEL) has no safetensors files, from which alone float8 is read")
    with ExitStack() as stack:
        files = [stack.enter_context(_opened(path, to)) for path in paths]
        yield Checkpoint(settings.model, {name: file for file in files for name in file.keys()})  # noqa: SIM118


def _opened(path: Path, to: device) -> Any:
    try:
        return safe_open(path, framework="pt", device=str(to))
    except (OSError, SafetensorError) as error:
        raise NotReady(f"{path} is not a safetensors file (VQA_MODEL): {error}") from None
