"""`vqa keys` as an operator runs it."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from producer.gateway.access.api_key import digest_of, is_well_formed
from producer.gateway.access.keys import KEYS, Keys
from tests.producer.conftest import Vqa


def test_a_key_is_printed_once_and_stored_as_its_hash(vqa: Vqa, redis: Redis) -> None:
    created = vqa("keys", "create", "--name", "shop", "--requests-per-minute", "600", "--in-flight", "8", "--json")
    assert (created.returncode, created.stderr) == (0, "")
    told = json.loads(created.stdout)
    assert is_well_formed(told["key"])
    stored = redis.hgetall(KEYS)
    assert list(stored) == [digest_of(told["key"]).encode()]
    assert told["key"].encode() not in b"".join(stored.values())
    [record] = Keys(redis).list()
    assert (record.id, record.name, record.tenant) == (told["id"], "shop", told["id"])
    assert (record.allowance.requests_per_minute, record.allowance.in_flight) == (600, 8)
    assert record.allowance.tokens_per_day is None
    assert record.webhook_secret == told["webhook_secret"]


def test_people_read_the_key_and_that_it_is_not_kept(vqa: Vqa, redis: Redis) -> None:
    said = vqa("keys", "create", "--name", "shop", "--lane", "bulk", "--tenant", "red").stdout
    [key] = [word for word in said.split() if word.startswith("vqa_")]
    assert is_well_formed(key)
    assert "cannot be shown again" in said
    [record] = Keys(redis).list()
    assert (record.lanes, record.tenant) == (("bulk",), "red")


def test_list_and_show_tell_no_secret_unless_asked(vqa: Vqa, redis: Redis) -> None:
    key, record = Keys(redis).create("shop")
    for words in (("list",), ("list", "--json"), ("show", record.id)):
        said = vqa("keys", *words).stdout
        assert record.id in said
        assert "active" in said
        assert not [secret for secret in (key, record.digest, record.webhook_secret) if secret in said]
    assert vqa("keys", "show", record.id, "--webhook-secret").stdout == f"{record.webhook_secret}\n"


def test_without_keys_the_list_says_so(vqa: Vqa) -> None:
    assert vqa("keys", "list").stdout == "no API keys\n"
    assert vqa("keys", "list", "--json").stdout == ""


def test_a_revoked_key_stays_listed_and_an_unknown_one_is_told(vqa: Vqa, redis: Redis) -> None:
    _, record = Keys(redis).create("shop")
    revoked = vqa("keys", "revoke", record.id, "key_000000000000")
    assert revoked.stdout == f"{record.id} revoked\nkey_000000000000 is unknown\n"
    assert revoked.returncode == 3
    first = Keys(redis).get(record.id)
    assert first
    assert first.revoked
    assert vqa("keys", "revoke", record.id).returncode == 0
    assert Keys(redis).get(record.id) == first
    assert json.loads(vqa("keys", "list", "--json").stdout)["status"] == "revoked"
    assert vqa("keys", "show", "key_000000000000").returncode == 3


def test_an_end_is_an_age_from_now_or_a_date(vqa: Vqa, redis: Redis) -> None:
    assert vqa("keys", "create", "--name", "a", "--expires", "90d").returncode == 0
    assert vqa("keys", "create", "--name", "b", "--expires", "2999-12-31").returncode == 0
    ends = {record.name: record.expires for record in Keys(redis).list()}
    soon, late = ends["a"], ends["b"]
    assert soon
    assert abs(soon - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=1)
    assert late == datetime(2999, 12, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--expires", "2020-01-01"), ("--expires", "soon"), ("--tenant", "a b"), ("--in-flight", "0")],
)
def test_a_wrong_option_is_named_and_no_key_is_made(vqa: Vqa, redis: Redis, option: str, value: str) -> None:
    refused = vqa("keys", "create", "--name", "a", option, value)
    assert refused.returncode == 2
    assert option in refused.stderr
    assert redis.hlen(KEYS) == 0


def test_the_list_goes_on_past_a_record_that_cannot_be_read(vqa: Vqa, redis: Redis) -> None:
    _, record = Keys(redis).create("shop")
    redis.hset(KEYS, "0" * 64, '{"id": "key_1", "webhook_secret": "whsec_secret", "new_limit": 1}')
    # a process of its own: in this one pytest takes what is logged
    listed = vqa("keys", "list", stdin=subprocess.DEVNULL)
    assert record.id in listed.stdout
    assert "00000000" in listed.stderr
    assert "whsec_secret" not in listed.stderr


def test_keys_are_managed_without_the_packages_of_the_gateway(environment: dict[str, str]) -> None:
    program = """
import sys
for name in ("fastapi", "starlette", "uvicorn", "limits", "httpx2"):
    sys.modules[name] = None
from producer.cli.main import app
app(["keys", "create", "--name", "shop"])
"""
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert "vqa_" in said.stdout, said.stderr
