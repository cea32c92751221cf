"""The parser of addresses: one strict reading of each, and no text that it fails on otherwise than by refusing it."""

import asyncio
from contextlib import suppress
from ipaddress import ip_address

import pytest
from httpcore2 import ConnectError
from hypothesis import example, given
from hypothesis import strategies as st

from tests.vqa.fetch.network import Names, Routed
from vqa.errors import BadImage
from vqa.fetch.fetcher import Fetcher
from vqa.fetch.prefixes import parse_object_address
from vqa.fetch.rules import Rules
from vqa.fetch.settings import FetchSettings
from vqa.fetch.url import parse_web_address
from vqa.net.guarded import GuardedBackend
from vqa.net.public import is_public


@pytest.mark.parametrize(
    ("text", "normal", "host", "port"),
    [
        ("https://images.example/a.png", "https://images.example/a.png", "images.example", 443),
        ("HTTPS://Images.Example", "https://images.example/", "images.example", 443),
        ("https://images.example:443/a", "https://images.example/a", "images.example", 443),
        ("http://images.example:8080/a?b=c#d", "http://images.example:8080/a?b=c", "images.example", 8080),
        ("https://images.example./a", "https://images.example/a", "images.example", 443),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC", "xn--bcher-kva.example", 443),
        ("https://a_b.example/?x=%2F%20y", "https://a_b.example/?x=%2F%20y", "a_b.example", 443),
        ("https://a.example/b/../c", "https://a.example/c", "a.example", 443),
        ("https://8.8.8.8/", "https://8.8.8.8/", "8.8.8.8", 443),
        ("https://[2606:4700:0::1]:8443/", "https://[2606:4700::1]:8443/", "2606:4700::1", 8443),
        ("https://a.example?b", "https://a.example/?b", "a.example", 443),
    ],
    ids=["plain", "case", "port", "other-port", "dot", "idna", "encoded", "dots", "ipv4", "ipv6", "no-path"],
)
def test_an_address_has_one_normal_form(text: str, normal: str, host: str, port: int) -> None:
    address = parse_web_address(text)
    assert (str(address), address.host, address.port) == (normal, host, port)
    assert parse_web_address(normal) == address


_HOSTS = st.one_of(
    st.ip_addresses().map(lambda each: f"[{each}]" if each.version == 6 else str(each)),
    st.integers(0, 2**33).map(str),
    st.integers(0, 2**33).map(hex),
    st.integers(0, 2**33).map(lambda number: f"0{number:o}"),
    st.lists(st.integers(0, 300).map(lambda part: f"0{part:o}"), min_size=1, max_size=5).map(".".join),
    st.text("abc01.-_%@:[]xX\u3002\uff11\\\t ", max_size=20),
)
_URLS = st.one_of(
    st.text(max_size=60),
    st.builds(
        "{}{}{}".format, st.sampled_from(["http://", "https://", "HTTPS:/", "s3://"]), _HOSTS, st.text(max_size=9)
    ),
)


class Public:
    """A resolver that finds a private address for every name, and for an address itself."""

    async def __call__(self, host: str, port: int) -> list[str]:
        with suppress(ValueError):
            return [str(ip_address(host))]
        return ["10.0.0.1"]


@given(_URLS)
@example("https://\ud800/")
@example("https://[::1%25\ud800]/")
@example("https://xn--/")
@example("https://" + "a." * 200)
@example("https://a/" + "%" * 30)
def test_a_text_is_an_address_or_refused(text: str) -> None:
    for parse in (
        parse_web_address,
        parse_object_address,
        Rules.from_settings(FetchSettings(hosts="http://*:*")).parse,
    ):
        with suppress(BadImage):
            address = str(parse(text))
            # a log or a header takes it
            assert address.isprintable()


@given(_URLS)
@example("http://8.8.8.8/")
@example("http://[64:ff9b::8.8.8.8]:1/")
def test_whatever_is_accepted_connects_to_public_addresses_only(text: str) -> None:
    network = Routed()
    backend = GuardedBackend(resolve=Public(), network=network)
    rules = Rules.from_settings(FetchSettings(hosts="http://*:*"))

    async def connect() -> None:
        address = parse_web_address(text)
        rules.check(address)
        # nothing listens on the port to which the network leads
        with suppress(ConnectError):
            await backend.connect_tcp(address.host, address.port, 5)

    with suppress(BadImage):
        asyncio.run(connect())
    assert all(map(is_public, network.addresses))


def test_what_an_error_says_is_nothing_of_the_address_but_its_host() -> None:
    fetcher = Fetcher(FetchSettings(hosts="images.example"), 10, GuardedBackend(resolve=Names(), network=Routed()))
    for url in (
        "https://a:pa55@images.example/",
        "https://other.example/pa55?pa55#pa55",
        "s3://bucket/pa55",
        "pa55://",
    ):
        with pytest.raises(BadImage) as refused:
            fetcher.check(url)
        assert "pa55" not in str(refused.value)
    fetcher.close()
