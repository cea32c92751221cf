"""What one Redis carries is counted right, and plans follow from the counts."""

from __future__ import annotations

import pytest
from redis import Redis

from bench.scaling.functions import library
from bench.scaling.load import encode, exchange, send_all
from bench.scaling.plan import Costs, Load, Plan, most_cards
from bench.scaling.saturation import Jobs, Way, carry
from bench.scaling.usage import Usage
from producer import Client
from vqa.ledger.commands import accept_command, close_command, entry_key, outcome_key
from vqa.ledger.records import Ending
from vqa.settings import Limits


@pytest.mark.parametrize("way", ["a command", "a job's six commands", "those of 16 jobs"])
def test_prepared_commands_close_every_job(redis: Redis, redis_url: str, way: Way) -> None:
    with Client(redis_url=redis_url) as client:
        made = Jobs(client, redis)

        carried = carry(redis, redis_url, made, 30, way, connections=4)

    assert carried.rate > 0
    assert not redis.keys("vqa:job:*")


def test_a_command_that_redis_refuses_ends_the_measurement(redis: Redis, redis_url: str) -> None:
    with pytest.raises(RuntimeError, match="unknown command"):
        send_all(redis_url, [[exchange([encode(["NONSENSE", 1])])]])


def test_usage_counts_calls_and_bytes_since(redis: Redis) -> None:
    before = Usage.read(redis)
    redis.set("key", b"x" * 5000)

    used = Usage.read(redis).since(before)

    assert used.calls["set"] == 1
    assert 5000 < used.in_bytes < 7000


def test_the_ledger_works_as_a_function(redis: Redis) -> None:
    redis.execute_command("FUNCTION", "LOAD", library())
    try:
        commands = [accept_command("a", "interactive", b"{}", 60, "", Limits())] * 2
        commands.append(([entry_key("a")], ["take", "a", outcome_key("a"), "w", "token", 9000, "0", 0]))
        commands.append(close_command(Ending("a", "token", b"{}", 60), Limits()))
        replies = [redis.execute_command("FCALL", "vqa", len(keys), *keys, *words) for keys, words in commands]
        assert replies[:2] == [b"accepted", b"open"]
        assert replies[2][0] == b"taken"
        assert replies[3] == [1, [], b"interactive"]
    finally:
        redis.execute_command("FUNCTION", "DELETE", "vqa")


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0], ids=["30%", "70%", "100%"])
@pytest.mark.parametrize("images", [False, True], ids=["images elsewhere", "images in Redis"])
def test_one_redis_feeds_so_many_cards_and_not_one_more(share: float, images: bool) -> None:
    load, costs = Load(images=images), Costs()

    cards = most_cards(share, load, costs)

    assert Plan.for_cards(cards, load, costs).cores <= share < Plan.for_cards(cards + 1, load, costs).cores
    assert Plan.for_cards(cards, load, costs).servers(share) == 1


def test_images_in_redis_cost_memory_and_bandwidth() -> None:
    without, within = (Plan.for_cards(8, Load(images=images), Costs()) for images in (False, True))

    assert within.image_bytes > 0
    assert not without.image_bytes
    assert within.network_bytes > 10 * without.network_bytes
