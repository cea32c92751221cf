"""Which URLs are accepted for a webhook, and from whom."""

import asyncio
from typing import Any

import pytest
from redis import Redis

from producer.client.aio import AsyncClient
from producer.gateway.access.caller import Caller
from producer.gateway.errors import InvalidRequest
from producer.gateway.webhooks.url import check_url
from producer.gateway.webhooks.webhooks import open_webhooks
from tests.producer.gateway.webhooks.receiver import SECRET
from vqa.errors import SettingsError
from vqa.gateway_settings import GatewaySettings
from vqa.settings import QueueSettings


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://hooks.example/a?b=c", "https://hooks.example/a?b=c"),
        ("https://hooks.example", "https://hooks.example/"),
        ("HTTPS://Hooks.Example:8443/A#fragment", "https://hooks.example:8443/A"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://[2606:4700:4700::1111]/", "https://[2606:4700:4700::1111]/"),
    ],
)
def test_an_https_url_is_accepted_in_its_normal_form(url: str, normal: str) -> None:
    assert check_url(url, False, "webhook.url") == normal
    assert check_url(url, True, "webhook.url") == normal


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://hooks.example/", "must be an https URL"),
        ("ftp://hooks.example/", "must be an https URL"),
        ("file:///etc/passwd", "must be an https URL"),
        ("hooks.example", "must be an https URL"),
        ("https://", "must be an https URL"),
        ("https://user@hooks.example/", "must not contain a user"),
        ("https://user:pa55@hooks.example/", "must not contain a user"),
        ("https://hooks.example/" + "a" * 2048, "at most 2,048"),
        ("https://hooks.example/" + "ü" * 1000, "at most 2,048"),
        *((url, "must be a URL") for url in (None, 5, ["https://hooks.example/"], {"url": "x"})),
        *((f"https://{host}/", "no public address") for host in ("127.0.0.1", "127.1", "0x7f000001", "2130706433")),
        *((f"https://{host}/", "no public address") for host in ("[::1]", "[::ffff:10.0.0.1]", "[64:ff9b::a00:1]")),
        *((f"https://{host}/", "no public address") for host in ("localhost", "a.localhost", "LOCALHOST.", "10.0.0.1")),
        ("https://169.254.169.254/latest/meta-data", "no public address"),
    ],
)
def test_others_are_refused(url: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        check_url(url, False, "vqa.webhook.url")
    assert refused.value.param == "vqa.webhook.url"
    assert refused.value.own_code == "invalid_webhook_url"
    # what a caller wrote may be a secret
    assert "pa55" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/", "http://localhost/", "https://[::1]/", "http://10.0.0.1/"])
def test_private_addresses_and_http_are_allowed_together(url: str) -> None:
    assert check_url(url, True, "webhook.url") == url
    with pytest.raises(InvalidRequest):
        check_url("https://user@127.0.0.1/", True, "webhook.url")


def test_without_a_secret_none_is_accepted(queue_settings: QueueSettings, redis: Redis) -> None:
    url, with_secret = "https://hooks.example/", Caller("key_1", "acme", webhook_secret=SECRET)

    async def main() -> None:
        async with AsyncClient(queue_settings) as client:
            async with open_webhooks(client, GatewaySettings()) as webhooks:
                with pytest.raises(InvalidRequest, match="VQA_GATEWAY_WEBHOOK_SECRET"):
                    await webhooks.watch("a", url, Caller())
                assert redis.keys("vqa:webhook*") == []
                await webhooks.watch("b", url, with_secret)
            async with open_webhooks(client, GatewaySettings(webhook_secret=SECRET)) as webhooks:
                await webhooks.watch("c", url, Caller())

    asyncio.run(main())
    assert redis.hmget("vqa:webhook:b", "url", "secret", "key_id") == [url.encode(), SECRET.encode(), b"key_1"]
    # that of the setting stays out of Redis
    assert redis.hmget("vqa:webhook:c", "url", "secret", "key_id") == [url.encode(), b"", b""]


@pytest.mark.parametrize("secret", ["secret", "whsec_", "whsec_c2hvcnQ=", "whsec_no base64", SECRET[6:]])
def test_a_secret_that_could_not_sign_is_refused_and_not_quoted(secret: str) -> None:
    with pytest.raises(SettingsError, match="VQA_GATEWAY_WEBHOOK_SECRET: must be whsec_") as refused:
        GatewaySettings(webhook_secret=secret)
    assert secret == "whsec_" or secret not in str(refused.value)
    assert SECRET not in repr(GatewaySettings(webhook_secret=SECRET))
