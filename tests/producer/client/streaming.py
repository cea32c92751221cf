"""A worker's text, written by hand."""

from redis import Redis

from vqa.ledger.records import Lease
from vqa.ledger.text_stream import Portion, stream_key


def write(redis: Redis, lease: Lease, start: int, text: str, announce: bool = True) -> None:
    """Write one portion of the attempt that has this lease."""
    portion = Portion(lease.header.attempt, lease.taken, start, text)
    redis.xadd(stream_key(lease.id), portion.fields())
    if announce:
        redis.rpush(lease.header.reply, lease.id)
