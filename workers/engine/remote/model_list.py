"""The list of models of an OpenAI server, and which of them a worker takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ValidationError

from vqa.errors import NotReady
from workers.engine.remote.failures import Broken
from workers.engine.settings import EngineSettings

#: models that a message names
_MOST_NAMED = 10


class _Model(BaseModel):
    id: str
    owned_by: str | None = None


class _ModelList(BaseModel):
    data: list[_Model]


def served_models(body: bytes) -> Mapping[str, str]:
    """Return the models' names and owners. Raises Broken."""
    try:
        found = _ModelList.model_validate_json(body)
    except ValidationError:
        raise Broken("its list of models cannot be read: is this the base URL of an OpenAI API?") from None
    return {model.id: model.owned_by or "" for model in found.data}


def named(models: Iterable[str]) -> str:
    """Return names for a message, of a hundred only the first."""
    names = sorted(models)
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "") or "none"


def choose_model(settings: EngineSettings, served: Iterable[str]) -> str:
    """Return VQA_MODEL if it is set, else the one model that is served. Raises NotReady."""
    names = sorted(set(served))
    shown = named(names)
    if "model" in settings.model_fields_set or settings.model in names:
        if settings.model not in names:
            raise NotReady(
                f"no server of VQA_REMOTE_URLS serves {settings.model} (VQA_MODEL), but: {shown}. Set VQA_MODEL to one "
                "of these, or start the server with that model (vLLM: --served-model-name)"
            )
        return settings.model
    if len(names) != 1:
        raise NotReady(f"the servers of VQA_REMOTE_URLS serve {len(names)} models ({shown}): name one with VQA_MODEL")
    return names[0]
