"""Where a key or a webhook's secret must not be: in a log, in an answer, and the key not in Redis either."""

from redis import Redis

from producer.gateway.access.api_key import new_api_key
from producer.gateway.access.keys import KEYS, Keys
from tests.producer.gateway.access.conftest import Holder, MakeHolder
from tests.producer.gateway.access.test_tenants_over_http import make_batch, make_file, make_image
from tests.producer.gateway.gateway_process import GatewayProcess

READ = {
    b"string": lambda redis, name: redis.get(name),
    b"hash": lambda redis, name: repr(redis.hgetall(name)).encode(),
    b"list": lambda redis, name: repr(redis.lrange(name, 0, -1)).encode(),
    b"set": lambda redis, name: repr(redis.smembers(name)).encode(),
    b"zset": lambda redis, name: repr(redis.zrange(name, 0, -1)).encode(),
    b"stream": lambda redis, name: repr(redis.xrange(name)).encode(),
    # gone since it was listed
    b"none": lambda redis, name: b"",
}


def everything_in(redis: Redis) -> dict[bytes, bytes]:
    """Return all keys of Redis with what they hold."""
    return {name: READ[redis.type(name)](redis, name) or b"" for name in redis.scan_iter(count=1000)}


def use_everywhere(caller: Holder, png: bytes) -> list[str]:
    """Ask, store, list, err, cancel; return what the gateway answered."""
    # by mistake; the answer repeats the id, and no log does
    caller.get(f"/v1/jobs/{caller.key}")
    replies = [caller.ask(), caller.ask(stream=True), caller.ask(max_tokens=-1)]
    job = caller.ask(later=True, seconds=30).json()["id"]
    replies += [caller.delete(f"/v1/jobs/{job}"), caller.get("/v1/status"), caller.get("/v1/models")]
    paths = [f"/v1/images/{make_image(caller, png)}", f"/v1/files/{make_file(caller, png)}"]
    paths += [f"/v1/batches/{make_batch(caller, png)}", "/v1/batches", "/v1/files"]
    return [reply.text + str(reply.headers) for reply in [*replies, *map(caller.get, paths)]]


def test_keys_and_secrets_are_in_no_log_no_answer_and_keys_not_in_redis(
    gateways: list[GatewayProcess], holder: MakeHolder, keys: Keys, keyed_redis: Redis, png: bytes
) -> None:
    caller, unknown = holder(requests_per_minute=100, tokens_per_minute=100_000, in_flight=10), new_api_key()
    said = use_everywhere(caller, png)
    keyed_redis.hset(KEYS, "f" * 64, caller.record.model_copy(update={"lanes": ("none",)}).model_dump_json())
    for sent in (unknown, caller.key[:-1], f"{caller.key}x"):
        said.append(caller.get("/v1/models", headers={"Authorization": f"Bearer {sent}"}).text)
        said.append(caller.get(f"/v1/models?key={sent}", headers={"x-api-key": sent, "Authorization": ""}).text)
    keys.revoke(caller.record.id)
    logs = [gateway.log.read_text() + "".join(map(str, gateway.access_log())) for gateway in gateways]
    secrets = (caller.key, caller.key[4:34], caller.record.webhook_secret, unknown)
    for text in [*logs, *said]:
        assert not [secret for secret in secrets if secret in text]
    stored = everything_in(keyed_redis)
    assert len(stored) > 10
    for name, data in stored.items():
        assert not [key for key in (caller.key, caller.key[4:34], unknown) if key.encode() in name + data], name
        # which signs, and so has to be stored
        assert name == KEYS.encode() or caller.record.webhook_secret.encode() not in data, name
    keyed_redis.hdel(KEYS, "f" * 64)
