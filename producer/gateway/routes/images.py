"""Images that are stored once and then named by their ids wherever an image is."""

from __future__ import annotations

from typing import Literal, Self

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile

from producer.gateway.access.auth import BEARER, CallerDep
from producer.gateway.access.caller import Caller
from producer.gateway.chat.request_schema import EXAMPLE_IMAGE, URL_PATTERN
from producer.gateway.client import GatewayClient
from producer.gateway.context import Context, ContextDep
from producer.gateway.errors import InvalidRequest, NotFound, UnsupportedType
from producer.gateway.http.body import parse_json
from producer.gateway.http.connection import media_type, unless_gone, while_sending
from producer.gateway.http.forms import check_form
from producer.gateway.openapi.error_schema import error_responses
from producer.ids import is_owner
from producer.images.locations import checked_url
from producer.images.parts import IMAGE
from producer.images.stored import PREFIX, StoredImage
from vqa.errors import ImageMissing
from vqa.images.data_url import from_data_url
from vqa.images.stored_id import is_stored_id
from vqa.jobs.message import is_url

router = APIRouter(tags=["images"], dependencies=[BEARER])

_MULTIPART = "multipart/form-data"
#: besides the image
_MOST_FIELDS = 16
_JSON = "application/json"
#: clients that do not look at the file send the second or, as curl does, the third
_RAW = ("image/", "application/octet-stream", "application/x-www-form-urlencoded")


class ImageObject(BaseModel):
    """A stored image."""

    id: str = Field(examples=["img_e3b0c44298fc_5f3c9d1e8a7b6c5d4e3f2a1b"])
    object: Literal["vqa.image"] = "vqa.image"
    bytes: int = Field(description="size of the file")
    width: int = Field(description="pixels, as the file's header says")
    height: int
    format: str = Field(examples=["jpeg"])
    created_at: int = Field(description="seconds since 1970")
    expires_at: int = Field(
        description="seconds since 1970; from then on the id is unknown. Jobs that named it before keep the image "
        "until their deadline"
    )

    @classmethod
    def from_stored(cls, image: StoredImage) -> Self:
        return cls(
            id=image.id,
            bytes=image.bytes,
            width=image.width,
            height=image.height,
            format=image.format.lower(),
            created_at=image.created_at,
            expires_at=image.expires_at,
        )


class DeletedImage(BaseModel):
    """What DELETE answers."""

    id: str
    object: Literal["vqa.image"] = "vqa.image"
    deleted: Literal[True] = True


_BODY = {
    "requestBody": {
        "required": True,
        "description": "The image as a form's field `file`, as the body itself, or as a data: or https: URL in JSON.",
        "content": {
            _MULTIPART: {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            _JSON: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {
                            "type": "string",
                            "pattern": URL_PATTERN,
                            "description": "data:image/TYPE;base64,..., or an https: URL of a host that is allowed",
                        }
                    },
                    "required": ["image"],
                },
                "example": {"image": EXAMPLE_IMAGE},
            },
        },
    }
}


@router.post(
    "/v1/images",
    openapi_extra=_BODY,
    summary="Store an image",
    responses=error_responses(400, 408, 413, 415, 429),
)
async def store_image(request: Request, context: ContextDep, caller: CallerDep) -> ImageObject:
    """Store an image once, to ask about it many times by its id."""
    data = await _image(request, context, caller)
    ttl_s = context.settings.image_ttl_s
    return ImageObject.from_stored(await context.client.images.upload(data, ttl_s=ttl_s, tenant=caller.tenant))


@router.get("/v1/images/{image_id}", summary="Describe a stored image", responses=error_responses(404))
async def retrieve_image(image_id: str, context: ContextDep, caller: CallerDep) -> ImageObject:
    """Return what is known about a stored image, not its bytes."""
    _check_owner(image_id, caller)
    try:
        return ImageObject.from_stored(await context.client.images.retrieve(image_id))
    except ImageMissing:
        raise _not_found() from None


@router.delete("/v1/images/{image_id}", summary="Delete a stored image", responses=error_responses(404))
async def delete_image(image_id: str, context: ContextDep, caller: CallerDep) -> DeletedImage:
    """Forget the id. Jobs that named it before still find the image; its bytes expire with the last of them."""
    _check_owner(image_id, caller)
    if not await context.client.images.delete(image_id):
        raise _not_found()
    return DeletedImage(id=image_id)


def _check_owner(id: str, caller: Caller) -> None:
    if not (is_stored_id(id) and is_owner(id, PREFIX, caller.tenant)):
        raise _not_found()


def _not_found() -> NotFound:
    return NotFound("no such image, or it has expired", param="image_id", code="image_missing")


async def _image(request: Request, context: Context, caller: Caller) -> bytes:
    """Return the bytes of the image in a request.

    Raises InvalidRequest, UnsupportedType, ClientGone, BadImage or ImageUnavailable.
    """
    with while_sending("the image"):
        found = await _read(request, media_type(request), context.client)
    if isinstance(found, bytes):
        return found
    context.images.check(found)
    if context.images.is_left(found):
        raise InvalidRequest(
            "image: this gateway leaves URLs to the workers (VQA_FETCH=worker); name it where you ask", param="image"
        )
    timeout_s = context.images.timeout_s({})
    fetching = context.images.fetch({found: IMAGE}, caller.key_id, timeout_s)
    return (await unless_gone(request, fetching))[found]


async def _read(request: Request, kind: str, client: GatewayClient) -> bytes | str:
    """Return the image, or its URL."""
    if kind == _MULTIPART:
        await check_form(request, _MOST_FIELDS)
        async with request.form(max_files=1, max_fields=_MOST_FIELDS) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise InvalidRequest("file: the form has no file in this field", param="file")
            return await file.read()
    if kind == _JSON:
        return await client.in_thread(_image_in_json, await request.body())
    if kind.startswith(_RAW):
        return await request.body()
    raise UnsupportedType(
        f"Content-Type: send the image as {_MULTIPART} (field `file`), as image/TYPE, or its URL as {_JSON}"
    )


def _image_in_json(body: bytes) -> bytes | str:
    document = parse_json(body)
    image = document.get("image") if isinstance(document, dict) else None
    if not isinstance(image, str):
        raise InvalidRequest('image: a string is required: {"image": "data:image/TYPE;base64,..."}', param="image")
    if image[:5].lower() == "data:":
        return from_data_url(image)
    if not is_url(image) and image[:5].lower() != "file:":
        raise InvalidRequest("image: must be a data: or https: URL", param="image")
    return checked_url(image)
