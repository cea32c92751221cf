"""`client.models`: what is listed."""

from redis import Redis

from producer import Client
from tests.producer.conftest import MakeJob
from vqa.ledger.ledger import Ledger
from vqa.ledger.models import MODELS


def test_a_model_is_listed_while_it_has_jobs_also_if_nobody_has_served_it_for_long(
    client: Client, redis: Redis, question: MakeJob
) -> None:
    Ledger(redis).renew("a", [], 9, {"slots": 4, "models": ["chat"]}, ["chat"], True)
    client.submit(question(model="chat"))
    redis.delete(MODELS, "vqa:workers")
    [model] = client.models.list()
    assert (model.name, model.workers, model.seen_s, model.counts["interactive"]["queued"]) == ("chat", (), None, 1)
