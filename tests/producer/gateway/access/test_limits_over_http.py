"""Each limit of a key, over real HTTP, with its headers and refunds."""

import json
import socket
import time
from contextlib import suppress
from urllib.parse import urlsplit

import httpx2
import pytest
from redis import Redis

from tests.producer.conftest import wait_until
from tests.producer.gateway.access.conftest import Holder, MakeHolder
from tests.producer.gateway.access.test_tenants_over_http import make_batch, make_file
from tests.producer.gateway.gateway_process import GatewayProcess

#: seconds that a job takes which a test cancels
LONG_S = 30
#: an estimate of the prompt `?` and the template, on top of max_tokens
PROMPT = 33


def retry_after(reply: httpx2.Response) -> int:
    """Return Retry-After of a 429 after checking the rest of it."""
    assert reply.status_code == 429, reply.text
    error = reply.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    return int(reply.headers["Retry-After"])


def remaining(reply: httpx2.Response, what: str) -> int:
    return int(reply.headers[f"x-ratelimit-remaining-{what}"])


def begin_minute(redis: Redis, left_s: int = 10) -> None:
    """Wait until the minute in which tokens are counted lasts so long: later its count fades with time."""
    while 60 - int(redis.time()[0]) % 60 < left_s:
        time.sleep(0.1)


def accepted(reply: httpx2.Response) -> str:
    assert reply.status_code == 202, reply.text
    return str(reply.json()["id"])


def cancel(caller: Holder, id: str) -> None:
    assert caller.delete(f"/v1/jobs/{id}").status_code == 200


def test_requests_a_minute(holder: MakeHolder) -> None:
    caller = holder(requests_per_minute=2)
    began = time.monotonic()
    told = [caller.post("/v1/chat/completions", json={}) for _ in range(2)]
    took_s = time.monotonic() - began
    assert [reply.status_code for reply in told] == [400, 400]
    assert [remaining(reply, "requests") for reply in told] == [1, 0]
    assert {reply.headers["x-ratelimit-limit-requests"] for reply in told} == {"2"}
    # all is forgotten once the window and the one after it are over
    resets = {reply.headers["x-ratelimit-reset-requests"] for reply in told}
    assert resets <= {"2m0s", *(f"1m{59 - second}s" for second in range(int(took_s) + 1))}
    refused = caller.ask()
    took_s = time.monotonic() - began
    # one of two may be used again as soon as the previous minute begins to fade
    assert 59 - took_s <= retry_after(refused) <= 61
    assert remaining(refused, "requests") == 0


def test_requests_a_day(holder: MakeHolder) -> None:
    caller = holder(requests_per_day=1)
    assert caller.ask().status_code == 200
    assert 86_390 <= retry_after(caller.ask()) <= 86_401


def test_requests_refused_for_the_minute_use_up_no_day(holder: MakeHolder) -> None:
    caller = holder(requests_per_minute=1, requests_per_day=2)
    assert caller.post("/v1/chat/completions", json={}).status_code == 400
    assert all(retry_after(caller.ask()) <= 61 for _ in range(3))


def test_polling_and_cancelling_are_not_counted_and_tell_what_is_left(holder: MakeHolder) -> None:
    # a minute would end now and then between two of these requests, and what was used begin to fade
    caller = holder(requests_per_minute=1, tokens_per_day=5000)
    id = accepted(caller.ask(later=True, seconds=LONG_S, max_tokens=1000))
    polled = [caller.get(f"/v1/jobs/{id}") for _ in range(3)]
    assert [reply.status_code for reply in polled] == [200, 200, 200]
    assert {remaining(reply, "requests") for reply in polled} == {0}
    assert {remaining(reply, "tokens") for reply in polled} == {5000 - 1000 - PROMPT}
    cancel(caller, id)


def test_gateways_share_the_counts(holder: MakeHolder) -> None:
    caller = holder(requests_per_minute=4)
    other = holder(gateway=1)
    other.headers["Authorization"] = caller.headers["Authorization"]
    told = [each.post("/v1/chat/completions", json={}) for each in (caller, other) * 2]
    assert [remaining(reply, "requests") for reply in told] == [3, 2, 1, 0]
    assert retry_after(other.ask())


@pytest.mark.parametrize("limit", ["tokens_per_minute", "tokens_per_day"])
def test_tokens_are_reserved_and_given_back_when_a_job_is_cancelled(
    holder: MakeHolder, keyed_redis: Redis, limit: str
) -> None:
    caller = holder(**{limit: 2000})
    begin_minute(keyed_redis)
    first = caller.ask(later=True, seconds=LONG_S, max_tokens=1500)
    assert remaining(first, "tokens") == 2000 - 1500 - PROMPT
    refused = caller.ask(max_tokens=1500)
    assert 1 <= retry_after(refused) <= (120 if limit == "tokens_per_minute" else 2 * 86_400)
    assert remaining(refused, "tokens") == 2000 - 1500 - PROMPT
    cancel(caller, accepted(first))
    assert caller.ask(max_tokens=1500).status_code == 200


def test_an_answer_is_charged_with_what_it_used(holder: MakeHolder) -> None:
    caller = holder(tokens_per_day=2000)
    answered = caller.ask(max_tokens=1500)
    used = answered.json()["usage"]["total_tokens"]
    assert 0 < used < 100
    wait_until(lambda: remaining(caller.get("/v1/models"), "tokens") == 2000 - used, "the rest is refunded")


def test_what_never_fits_is_refused_for_good(holder: MakeHolder) -> None:
    refused = holder(tokens_per_day=1000).ask(max_tokens=1500)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "too_many_tokens")
    assert "Retry-After" not in refused.headers


def test_a_job_holds_its_place_until_it_is_cancelled(holder: MakeHolder) -> None:
    caller = holder(in_flight=2)
    first, _ = (accepted(caller.ask(later=True, seconds=LONG_S)) for _ in range(2))
    assert 1 <= retry_after(caller.ask()) <= 60
    cancel(caller, first)
    assert caller.ask().status_code == 200
    second = accepted(caller.ask(later=True, seconds=LONG_S))
    assert retry_after(caller.ask())
    cancel(caller, second)


def test_a_job_that_ended_unread_holds_no_place_and_only_the_tokens_that_it_used(holder: MakeHolder) -> None:
    caller = holder(in_flight=1, tokens_per_minute=2000)
    colleague = holder(tenant=caller.record.tenant)
    id = accepted(caller.ask(later=True, max_tokens=1500))
    # another key of the tenant sees the end, and frees nothing
    ended = colleague.get(f"/v1/jobs/{id}", params={"wait": 20}).json()
    assert ended["status"] == "completed", ended
    assert caller.ask(max_tokens=1500).status_code == 200


def test_one_place_is_enough_for_one_request_after_the_other(holder: MakeHolder) -> None:
    caller = holder(in_flight=1)
    assert {caller.ask().status_code for _ in range(50)} == {200}


def test_a_batch_counts_as_one_request_and_is_charged_with_what_its_rows_used(holder: MakeHolder) -> None:
    caller = holder(requests_per_minute=2, tokens_per_day=1_000_000)
    batch = make_batch(caller, b"")
    refused = caller.post("/v1/batches", json={})
    assert retry_after(refused)
    wait_until(lambda: caller.get(f"/v1/batches/{batch}").json()["status"] == "completed", "the batch ends")
    wait_until(lambda: remaining(caller.get("/v1/models"), "tokens") < 1_000_000, "its tokens are charged")


def test_a_key_whose_tokens_are_used_up_gets_no_batch(holder: MakeHolder, keyed_redis: Redis) -> None:
    caller = holder(tokens_per_day=5000)
    day = int(keyed_redis.time()[0]) // 86_400
    keyed_redis.hset(f"vqa:budget:{caller.record.id}", mapping={"day": day, "day_current": 5000})
    body = {"input_file_id": make_file(caller, b""), "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert retry_after(caller.post("/v1/batches", json=body)) > 1


def test_keys_of_a_tenant_have_limits_of_their_own(holder: MakeHolder) -> None:
    caller = holder(requests_per_minute=1)
    colleague = holder(requests_per_minute=1, tenant=caller.record.tenant)
    assert [each.ask().status_code for each in (caller, caller, colleague)] == [200, 429, 200]


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_holds_its_place_until_its_client_leaves(
    gateways: list[GatewayProcess], holder: MakeHolder, keyed_redis: Redis, stream: bool
) -> None:
    caller = holder(in_flight=1)
    body = {"messages": [{"role": "user", "content": "?"}], "metadata": {"echo_delay_s": str(LONG_S)}, "stream": stream}
    sent = json.dumps(body).encode()
    address = urlsplit(gateways[0].url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (caller.key.encode(), len(sent), sent)
        )
        wait_until(lambda: keyed_redis.zcard(f"vqa:budget:{caller.record.id}:flight"), "the place is taken")
        assert caller.ask().status_code == 429
    wait_until(lambda: caller.ask().status_code == 200, "the place is free")


@pytest.mark.parametrize("stream", [True, False])
def test_a_job_that_goes_on_without_its_client_stays_counted(holder: MakeHolder, stream: bool) -> None:
    caller, key = holder(in_flight=1, tokens_per_minute=2000), {"Idempotency-Key": "again"}
    body = {"messages": [{"role": "user", "content": "?"}], "metadata": {"echo_delay_s": "2"}, "stream": stream}
    with (
        suppress(httpx2.ReadTimeout),
        caller.stream("POST", "/v1/chat/completions", json=body, headers=key, timeout=0.5) as reply,
    ):
        next(reply.iter_lines())
    assert retry_after(caller.ask())
    again = caller.post("/v1/chat/completions", json=body, headers=key)
    assert again.status_code == 200
    assert caller.ask().status_code == 200
    wait_until(lambda: 1900 < remaining(caller.get("/v1/models"), "tokens") < 2000, "both are charged")


def test_text_that_a_stream_has_shown_is_charged_though_its_job_is_cancelled(holder: MakeHolder) -> None:
    caller, key = holder(tokens_per_minute=2000), {"Idempotency-Key": "shown"}
    body = {"messages": [{"role": "user", "content": "?"}], "metadata": {"echo_delay_s": "30"}, "stream": True}
    with caller.stream("POST", "/v1/chat/completions", json=body, headers=key) as reply:
        next(line for line in reply.iter_lines() if "echo:" in line)
    cancel(caller, reply.headers["X-VQA-Job-ID"])
    assert 1900 < remaining(caller.get("/v1/models"), "tokens") < 2000


def test_without_limits_nothing_is_told(holder: MakeHolder) -> None:
    answered = holder().ask()
    assert not [name for name in answered.headers if name.startswith("x-ratelimit")]
