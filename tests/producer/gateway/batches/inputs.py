"""Input files of batches."""

import base64
import io
import json
from collections.abc import Iterable
from typing import Any

from PIL import Image


def _png() -> bytes:
    with io.BytesIO() as file:
        Image.new("RGB", (1, 1)).save(file, "PNG")
        return file.getvalue()


PIXEL = _png()
PIXEL_URL = "data:image/png;base64," + base64.b64encode(PIXEL).decode()


def row(id: object, question: str, image: str = PIXEL_URL, **body: Any) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": question}]
    request = {"model": "any", "max_tokens": 20, "messages": [{"role": "user", "content": content}], **body}
    return {"custom_id": f"row-{id}", "method": "POST", "url": "/v1/chat/completions", "body": request}


def rows_file(rows: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in rows)
