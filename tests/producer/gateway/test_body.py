import time

import pytest

from producer.gateway.body import MAX_VALUES, parse_json
from producer.gateway.errors import InvalidRequest

SIZE = 64 * 2**20


@pytest.mark.parametrize(
    "body",
    [
        b"[" * SIZE,
        b'{"a":' * (SIZE // 5),
        b"[" + b"[]," * (SIZE // 3) + b"[]]",
        b'{"a":"' + b"\\n" * (SIZE // 2) + b'"}',
        b"[1,]",
        b'"\xff"',
        b'{"a":"\\ud800"}',
        b"NaN",
        b"9" * 5000,
        b"",
    ],
    ids=["lists", "objects", "empty lists", "escapes", "a comma", "bytes", "half a pair", "NaN", "digits", "nothing"],
)
def test_a_bad_body_is_refused_at_once(body: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(InvalidRequest):
        parse_json(body)
    assert time.monotonic() - started < 5


def test_a_large_image_in_a_body_is_read() -> None:
    assert parse_json(b'{"a":"' + b"A" * SIZE + b'"}') == {"a": "A" * SIZE}


def test_values_up_to_the_limit_are_read() -> None:
    assert parse_json(b"[" + b"1," * (MAX_VALUES - 2) + b"1]") == [1] * (MAX_VALUES - 1)
