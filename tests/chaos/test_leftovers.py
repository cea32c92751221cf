from redis import Redis

from tests.chaos.leftovers import count_open_jobs, leftovers


def test_only_what_expires_and_what_is_celerys_may_be_left(redis: Redis) -> None:
    for key in (
        "vqa:dead:a",
        f"vqa:image:sha256:{'0' * 64}",
        "vqa:reply:x",
        "celery-task-meta-a",
        "vqa:closed:bulk.m:1",
    ):
        redis.set(key, "", ex=60)
    redis.lpush("interactive", "a wake-up too many")
    redis.hset("unacked", "tag", "message")
    redis.sadd("_kombu.binding.celery", "x")
    redis.xgroup_create("vqa:inbox", "vqa", mkstream=True)
    assert list(leftovers(redis)) == []
    redis.xadd("vqa:inbox", {"job": "{}"})
    redis.set("vqa:job:a", "")
    redis.zadd("vqa:queued:bulk", {"a": 1})
    redis.set("vqa:reply:y", "")
    assert list(leftovers(redis)) == [
        "vqa:inbox has 1 entries left",
        "vqa:job:a is left in Redis",
        "vqa:queued:bulk is left in Redis",
        "vqa:reply:y has no time to live",
    ]


def test_the_rest_of_the_ledger_is_seen_in_each_of_its_keys(redis: Redis) -> None:
    assert count_open_jobs(redis) == 0
    redis.zadd("vqa:deadlines", {"a": 1, "b": 2})
    assert count_open_jobs(redis) == 2
    redis.delete("vqa:deadlines")
    redis.zadd("vqa:delayed:interactive", {"a": 1})
    assert count_open_jobs(redis) == 1
    redis.flushall()
    redis.set("vqa:job:a", "")
    assert count_open_jobs(redis) == 1
