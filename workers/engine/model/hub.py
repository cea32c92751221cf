"""Finds a model's files: in its folder, in the hub's cache on this machine, or on the hub (`VQA_HUB`)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from vqa.errors import NotReady
from workers.engine.model import modelscope
from workers.engine.settings import EngineSettings


def source(settings: EngineSettings) -> str:
    """Return what transformers loads: a folder, or a name on the Hugging Face hub.

    With VQA_HUB=modelscope the first call downloads the model. Raises NotReady.
    """
    if settings.hub == "modelscope" and not _is_path(settings.model):
        return str(modelscope.snapshot(settings))
    return settings.model


def file_of(settings: EngineSettings, name: str) -> Path:
    """Find a file in the model's folder or the hub's cache, or download it. Raises NotReady."""
    folder = Path(source(settings))
    if found := local_file(settings, name):
        return found
    if folder.is_dir():
        raise NotReady(f"the folder {folder} (VQA_MODEL) has no {name}: it is not the folder of a model")
    if _is_path(settings.model):
        raise NotReady(f"there is no folder {folder} (VQA_MODEL)")
    if found := remote_file(settings, name):
        return found
    raise NotReady(f"{settings.model} (VQA_MODEL) has no {name} on the hub: it is not a transformers model")


def local_file(settings: EngineSettings, name: str) -> Path | None:
    """Return a file that is on this machine; None if it is not. Raises NotReady."""
    folder = Path(source(settings))
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(settings.model, name, revision=settings.revision)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def remote_file(settings: EngineSettings, name: str) -> Path | None:
    """Download a file; return None if the hub does not have it. Raises NotReady if the hub cannot be reached."""
    if Path(source(settings)).is_dir():
        return None
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # a download retries for 24 s where there is no network; what the hub itself replies, it tells and retries
        with suppress(HfHubHTTPError):
            get_hf_file_metadata(hf_hub_url(settings.model, name, revision=settings.revision))
        return Path(hf_hub_download(settings.model, name, revision=settings.revision))
    except EntryNotFoundError as error:
        if not isinstance(error, LocalEntryNotFoundError):
            return None
        raise unreachable(settings, error) from None
    except (HfHubHTTPError, HFValidationError) as error:
        raise unreadable(settings, name, error) from None
    except Exception as error:
        # the HTTP client's own errors
        raise unreachable(settings, error) from None


def size_on_hub(settings: EngineSettings, name: str) -> int:
    """Return a file's bytes. Raises NotReady."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        return int(get_hf_file_metadata(hf_hub_url(settings.model, name, revision=settings.revision)).size or 0)
    except Exception as error:
        raise unreadable(settings, name, error) from None


def first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def unreachable(settings: EngineSettings, error: BaseException) -> NotReady:
    """Say that the Hugging Face hub does not answer, and what can be done."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return NotReady(
            f"{settings.model} (VQA_MODEL) is no folder on this machine, nor in the cache {constants.HF_HUB_CACHE} "
            "(HF_HOME), and HF_HUB_OFFLINE is set: unset it, or set VQA_MODEL to a local folder"
        )
    return NotReady(
        f"{settings.model} (VQA_MODEL) is no folder on this machine, and the hub cannot be reached at "
        f"{constants.ENDPOINT} ({first_line(error)}): check the network, set HF_ENDPOINT to a mirror, HF_HUB_OFFLINE=1 "
        "if the model is in the cache, VQA_HUB=modelscope, or VQA_MODEL to a local folder"
    )


def unreadable(settings: EngineSettings, name: str, error: Exception) -> NotReady:
    """Turn any error of the hub's client or the network into NotReady with its first line."""
    return NotReady(
        f"cannot read {name} of {settings.model} (VQA_MODEL) from the hub: {first_line(error)}; check the name, the "
        f"network and HF_TOKEN, or give a local folder"
    )


def _is_path(model: str) -> bool:
    """Whether a model's name is that of a folder: it is there, or no hub has such names."""
    folder = Path(model)
    return folder.is_dir() or folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1
