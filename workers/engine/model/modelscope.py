"""Models from ModelScope (`VQA_HUB=modelscope`), by its own client; needs the extra `modelscope`.

What transformers loads is downloaded into the client's cache (MODELSCOPE_CACHE), from where a start that was broken off
continues. A complete model is used as it is, without asking the hub.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqa.errors import NotReady
from workers.engine.settings import EngineSettings

if TYPE_CHECKING:
    from modelscope_hub import HubApi

log = logging.getLogger(__name__)

#: configs, tokenizers and templates; weights are named by their index
_SMALL = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
_CODE = "*.py"
#: `*` matches `/` too: other formats of the same weights are in folders
_NOT = ("*/*",)
_INDEX, _WEIGHTS = "model.safetensors.index.json", "model.safetensors"

#: seconds between lines about a file that is being downloaded
_REPORT_S = 10.0


def snapshot(settings: EngineSettings) -> Path:
    """Return the model's folder; download what is missing. Raises NotReady."""
    try:
        from modelscope_hub import HubApi, HubConfig
        from modelscope_hub.errors import HubError
    except ImportError:
        raise NotReady("VQA_HUB=modelscope needs `pip install 'vqa-queue[modelscope]'`") from None
    config = HubConfig()
    api = HubApi(config)
    try:
        if (folder := _complete(api, settings)) is not None:
            return folder
        log.info("downloading %s (VQA_MODEL) from ModelScope at %s", settings.model, config.endpoint)
        return _download(api, settings)
    except HubError as error:
        raise _not_ready(settings, config.endpoint, error) from None


def _complete(api: HubApi, settings: EngineSettings) -> Path | None:
    """Return the folder of a model that has been downloaded before; None if anything is missing."""
    from modelscope_hub.errors import CacheNotFound

    try:
        folder = api.download_repo(settings.model, "model", revision=settings.revision, local_files_only=True)
    except CacheNotFound:
        return None
    # a file has its name when it is whole, and the small ones are downloaded before the weights
    complete = (folder / "config.json").is_file() and all((folder / name).is_file() for name in _weights(folder))
    code = not settings.trust_remote_code or any(folder.glob(_CODE)) or not _has_code(folder)
    return folder if complete and code else None


def _download(api: HubApi, settings: EngineSettings) -> Path:
    small = [*_SMALL, *([_CODE] if settings.trust_remote_code else [])]
    folder = _fetch(api, settings, small, _NOT)
    if not (folder / "config.json").is_file():
        raise NotReady(f"{settings.model} (VQA_MODEL) has no config.json on ModelScope: it is not a transformers model")
    names = _weights(folder)
    _fetch(api, settings, names, ())
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise NotReady(f"{settings.model} (VQA_MODEL) has no {missing[0]} on ModelScope: safetensors files are needed")
    log.info("%s (VQA_MODEL) is in %s", settings.model, folder)
    return folder


def _fetch(api: HubApi, settings: EngineSettings, names: Sequence[str], but: Sequence[str]) -> Path:
    how: dict[str, Any] = {"allow_patterns": list(names), "ignore_patterns": list(but)}
    how["progress_callbacks"] = [_Progress]
    return Path(api.download_repo(settings.model, "model", revision=settings.revision, **how))


def _weights(folder: Path) -> Sequence[str]:
    index = folder / _INDEX
    return sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else [_WEIGHTS]


def _has_code(folder: Path) -> bool:
    return "auto_map" in json.loads((folder / "config.json").read_text())


class _Progress:
    """Logs how much of a file has been downloaded; as `modelscope_hub.ProgressCallback`."""

    def __init__(self, filename: str, file_size: int) -> None:
        """`file_size` is in bytes; not positive if not known."""
        self._name, self._size = filename, file_size
        self._got, self._told = 0, time.monotonic()

    def update(self, size: int) -> None:
        """Count `size` more bytes."""
        self._got += size
        if time.monotonic() - self._told >= _REPORT_S:
            self._told = time.monotonic()
            log.info("%s: %.2f of %.2f GiB", self._name, self._got / 2**30, max(self._size, self._got) / 2**30)

    def end(self) -> None:
        """The file is whole, or has failed."""


def _not_ready(settings: EngineSettings, endpoint: str, error: Exception) -> NotReady:
    from modelscope_hub import errors

    cause = next(iter(getattr(error, "failed_files", {}).values()), error)
    if isinstance(cause, errors.NotExistError):
        return NotReady(
            f"ModelScope has no {settings.model} (VQA_MODEL), or no revision {settings.revision or 'master'} of it "
            f"(VQA_REVISION): check the name at {endpoint}/models, or unset VQA_HUB"
        )
    if isinstance(cause, errors.AuthenticationError | errors.PermissionDeniedError):
        return NotReady(
            f"ModelScope refuses {settings.model} (VQA_MODEL): set MODELSCOPE_API_TOKEN to a key that may read it"
        )
    what = next((line for line in str(cause).splitlines() if line), type(cause).__name__)[:300]
    if isinstance(cause, errors.NetworkError):
        # its text is the HTTP client's, with addresses of objects
        what = "no connection"
    return NotReady(
        f"{settings.model} (VQA_MODEL) cannot be downloaded from ModelScope at {endpoint} ({what}): check "
        "the network and MODELSCOPE_ENDPOINT and start again, which continues, or set VQA_MODEL to a local folder"
    )
