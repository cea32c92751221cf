"""data: URLs of images, as programs write them."""

from __future__ import annotations

import base64
import textwrap
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqa import BadImage
from vqa.images.data_url import from_data_url, to_data_url

HEADS = [
    "data:image/png;base64,",
    "DATA:IMAGE/JPEG;BASE64,",
    "data:image;base64,",
    "data:;base64,",
    "data:image/png;charset=utf-8;base64,",
    "data:image/png;name=cat.png;charset=utf-8;base64,",
    "data:application/octet-stream;base64,",
    "data:image/svg+xml;base64,",
    "data:video/mp4;base64,",
    "data:application/pdf;base64,",
]


@pytest.mark.parametrize("head", HEADS)
def test_the_type_may_be_written_in_every_way_or_be_missing(head: str) -> None:
    assert from_data_url(head + "AAEC") == b"\0\1\2"


@given(data=st.binary(max_size=200))
def test_base64_is_read_however_it_was_written(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    safe = base64.urlsafe_b64encode(data).decode()
    lines = "\r\n  ".join(textwrap.wrap(text, 20))
    for written in (
        text,
        text + "\n",
        text.rstrip("="),
        safe,
        safe.rstrip("="),
        lines,
        "\n" + lines,
        quote(text, safe=""),
    ):
        assert from_data_url("data:image/png;base64," + written) == data
    assert from_data_url(to_data_url(data)) == data


@pytest.mark.parametrize("text", ["A", "AAAAA", "AA!A", "AA=A", "AA A", "é", "AAA%"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(BadImage, match="not valid base64"):
        from_data_url("data:image/png;base64," + text)


@pytest.mark.parametrize(
    "url", ["data:image/png,abc", "data:text/html;base64,AAEC", "data:image/png;base64", "data:audio/mp3;base64,AAEC"]
)
def test_what_is_no_image_is_refused(url: str) -> None:
    with pytest.raises(BadImage, match="must begin with data:image/TYPE;base64,"):
        from_data_url(url)
