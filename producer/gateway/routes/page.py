"""The page for people at `/`, and its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Response

from producer.gateway.errors import NotFound

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parents[1] / "page"

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

#: only our own files and addresses; blob: is an image that a person has chosen
_POLICY = "; ".join(
    [
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob:", "connect-src 'self'"),
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    ]
)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


def _read(path: Path) -> _File:
    content = path.read_bytes()
    return _File(content, _TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


#: 30 kB in all; a name that is not here is not served, wherever it points
_FILES: Mapping[str, _File] = {path.name: _read(path) for path in _FOLDER.iterdir() if path.suffix in _TYPES}


@router.get("/")
async def show_page(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    return _response(_FILES["index.html"], if_none_match)


@router.get("/page/{name}")
async def read_page_file(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Raises NotFound."""
    if name not in _FILES:
        raise NotFound("the page has no such file")
    return _response(_FILES[name], if_none_match)


def _response(file: _File, if_none_match: str | None) -> Response:
    # asked for again at each visit, so that a page and its scripts are of one release
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache", "ETag": file.etag}
    if if_none_match is not None and file.etag in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
