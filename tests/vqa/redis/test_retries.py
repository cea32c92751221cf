"""Calls of Redis under trouble: how long they are tried, and what is not tried again."""

import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import redis
from redis.exceptions import AuthenticationError, ConnectionError, ReadOnlyError, ResponseError, TimeoutError

from tests.proxy import Proxy
from tests.redis_server import RedisServer
from tests.vqa.redis.conftest import TIMEOUT_S, Call, patient_settings, settings_for
from vqa.redis.retry import RetryFor, causes


def _fails(call: Callable[[], Any], error: type[Exception], least_s: float, most_s: float) -> None:
    """It raises the error after these seconds; on a busy machine some calls take longer, but not each of ten."""
    seconds: list[float] = []
    while not seconds or (min(seconds) >= most_s and len(seconds) < 10):
        begun = time.monotonic()
        with pytest.raises(error):
            call()
        seconds.append(time.monotonic() - begun)
        assert seconds[-1] >= least_s
    assert min(seconds) < most_s, seconds


def test_a_refused_connection_is_tried_again_for_the_patience_and_no_longer(call: Call, proxy: Proxy) -> None:
    proxy.cut()
    settings = settings_for(proxy.port)
    _fails(lambda: call(settings, 0, "PING"), ConnectionError, 0, 0.5)
    # as many tries of each try would be minutes
    _fails(lambda: call(settings, 2, "PING"), ConnectionError, 1.9, 2.5)


def test_a_silent_redis_is_an_error_after_the_timeout(call: Call, proxy: Proxy) -> None:
    proxy.silence()
    settings = settings_for(proxy.port)
    _fails(lambda: call(settings, 0, "PING"), TimeoutError, TIMEOUT_S, TIMEOUT_S + 0.5)
    _fails(lambda: call(settings, 1, "PING"), TimeoutError, 1, 1 + TIMEOUT_S + 0.5)


def test_a_redis_that_comes_back_within_the_patience_was_not_away(call: Call, proxy: Proxy) -> None:
    proxy.cut()
    threading.Timer(0.7, proxy.restore).start()
    assert call(settings_for(proxy.port), 10, "PING") in (True, b"PONG")


def test_what_a_replica_refuses_is_tried_again_on_a_new_connection(
    call: Call, server: RedisServer, proxy: Proxy
) -> None:
    with redis.Redis(port=server.port) as direct:
        direct.replicaof("127.0.0.1", 1)
        _fails(lambda: call(patient_settings(proxy.port), 0, "SET k v"), ReadOnlyError, 0, 0.5)
        threading.Timer(0.7, direct.replicaof, ["NO", "ONE"]).start()
        assert call(settings_for(proxy.port), 10, "SET k v") in (True, b"OK")


def test_replicas_that_are_missing_are_waited_for(call: Call, server: RedisServer) -> None:
    with redis.Redis(port=server.port) as direct:
        direct.config_set("min-replicas-to-write", 1)
        try:
            _fails(lambda: call(patient_settings(server.port), 1, "SET k v"), ResponseError, 0.9, 1.5)
        finally:
            back = threading.Timer(0.7, direct.config_set, ["min-replicas-to-write", 0])
            back.start()
        assert call(settings_for(server.port), 10, "SET k v") in (True, b"OK")
        back.join()


def test_an_answer_that_would_be_the_same_again_is_not_asked_for_again(call: Call, proxy: Proxy) -> None:
    settings = patient_settings(proxy.port)
    call(settings, 0, "SET text v")
    _fails(lambda: call(settings, 10, "INCR text"), ResponseError, 0, 0.5)
    _fails(lambda: call(patient_settings(proxy.port, "nobody:secret@"), 10, "PING"), AuthenticationError, 0, 0.5)


def test_a_redis_that_hangs_while_it_is_sent_much_is_waited_for(
    call: Call, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the kernel gives up a connection that takes no more data, even if the other host acknowledges; sooner than always
    monkeypatch.setattr("vqa.redis.connection.lost_host_options", lambda: {socket.TCP_USER_TIMEOUT: 500})
    settings, command = patient_settings(server.port), f"SET much {'x' * 8_000_000}"

    def pause() -> None:
        server.pause()
        threading.Timer(2, server.resume).start()

    with pytest.raises(TimeoutError):
        call(settings, 0, command, pause)
    # longer than it is tried after other errors
    assert call(settings, 0.1, command, pause) in (True, b"OK")


def test_errors_that_caused_each_other_are_walked_once() -> None:
    first, second = OSError(1, "first"), OSError(2, "second")
    first.__cause__, second.__context__ = second, first
    assert list(causes(first)) == [first, second]
    began = time.monotonic()
    with pytest.raises(OSError, match="first"):
        RetryFor(0.1).call_with_retry(partial(_raise, first), lambda error: None)
    assert time.monotonic() - began < 30


def _raise(error: Exception) -> None:
    raise error
