import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psutil
import pytest

from producer.gateway.errors import InvalidRequest
from producer.gateway.http.body import MAX_VALUES, parse_json
from tests.producer.gateway.gateway_process import GatewayProcess

SIZE = 64 * 2**20


#: made where they are parsed: they are large
BAD: dict[str, Callable[[], bytes]] = {
    "lists": lambda: b"[" * SIZE,
    "objects": lambda: b'{"a":' * (SIZE // 5),
    "empty lists": lambda: b"[" + b"[]," * (SIZE // 3) + b"[]]",
    "escapes": lambda: b'{"a":"' + b"\\n" * (SIZE // 2) + b'"}',
    "a comma": lambda: b"[1,]",
    "bytes": lambda: b'"\xff"',
    "half a pair": lambda: b'{"a":"\\ud800"}',
    "NaN": lambda: b"NaN",
    "digits": lambda: b"9" * 5000,
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_body_is_refused_at_once(what: str) -> None:
    body = BAD[what]()
    started = time.monotonic()
    with pytest.raises(InvalidRequest):
        parse_json(body)
    assert time.monotonic() - started < 5


def test_a_large_image_in_a_body_is_read() -> None:
    assert parse_json(b'{"a":"' + b"A" * SIZE + b'"}') == {"a": "A" * SIZE}


def test_values_up_to_the_limit_are_read() -> None:
    assert parse_json(b"[" + b"1," * (MAX_VALUES - 2) + b"1]") == [1] * (MAX_VALUES - 1)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/ask", "/v1/images", "/v1/batches"])
def test_64_mb_of_empty_lists_neither_end_nor_hold_up_the_gateway(
    http: httpx2.Client, gateway: GatewayProcess, path: str
) -> None:
    body = b"[" + b"[]," * ((SIZE - 10) // 3) + b"[]]"
    headers = {"Content-Type": "application/json"}
    with ThreadPoolExecutor(1) as thread:
        began = time.monotonic()
        refused = thread.submit(http.post, path, content=body, headers=headers)
        longest_s = 0.0
        while not refused.done():
            started = time.monotonic()
            assert http.get("/healthz").status_code == 200
            longest_s = max(longest_s, time.monotonic() - started)
    took_s = time.monotonic() - began
    assert refused.result().status_code in (400, 413)
    # parsed on the event loop they would hold others up for nearly all of the time, however busy the machine is
    assert longest_s < max(2, took_s / 2)
    assert psutil.Process(gateway.process.pid).memory_info().rss < 600 * 2**20
