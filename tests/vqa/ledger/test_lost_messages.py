"""What Celery's lists say of jobs that wait, whatever else stands in them."""

import json

from redis import Redis

from vqa.ledger.ledger import Ledger
from vqa.ledger.lost_messages import oldest_message_time


def test_malformed_messages_are_passed_over(redis: Redis) -> None:
    Ledger(redis).accept("job", "bulk", b"{}", 60)
    strange = [{"headers": {"id": id}} for id in ("\ud800", 5, [], {}, None, "a/b", "x" * 1000)]
    strange += [{"headers": []}, {}, [], 1]
    redis.lpush("bulk", b"\xff", b"[" * 100_000, *map(json.dumps, strange))
    assert oldest_message_time(redis, "bulk") is None
    redis.lpush("bulk", json.dumps({"headers": {"id": "job"}}))
    assert oldest_message_time(redis, "bulk") == redis.zscore("vqa:queued:bulk", "job")
