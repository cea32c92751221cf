# ruff: noqa: RUF001 - letters that look like others are what is tested
"""Addresses and tricks that lead inside: all are refused where every host and port is allowed, and nothing is sent."""

import socket
from contextlib import closing

import pytest

from tests.vqa.fetch.network import PUBLIC, Names, Routed
from vqa.errors import BadImage, ImageUnavailable
from vqa.fetch.fetcher import Fetcher
from vqa.fetch.settings import FetchSettings
from vqa.net.guarded import GuardedBackend

#: every host, scheme and port
OPEN = FetchSettings(hosts="http://*:*")

LITERALS = {
    "loopback": "127.0.0.1",
    "loopback-other": "127.8.9.10",
    "loopback-port": "127.0.0.1:6379",
    "loopback-dot": "127.0.0.1.",
    "any": "0.0.0.0",
    "any-short": "0",
    "short-2": "127.1",
    "short-3": "127.0.1",
    "integer": "2130706433",
    "integer-port": "2130706433:80",
    "integer-overflow": "4294967297",
    "octal": "0177.0.0.1",
    "octal-zeros": "0000177.0.0.01",
    "octal-integer": "017700000001",
    "hex": "0x7f000001",
    "hex-parts": "0x7f.0x0.0x0.0x1",
    "hex-mixed": "0x7f.1",
    "hex-upper": "0X7F.0.0.1",
    "metadata": "169.254.169.254",
    "metadata-integer": "2852039166",
    "metadata-hex": "0xa9fea9fe",
    "metadata-octal": "0251.0376.0251.0376",
    "metadata-short": "169.16689662",
    "metadata-ecs": "169.254.170.2",
    "metadata-alibaba": "100.100.100.200",
    "metadata-oracle": "192.0.0.192",
    "metadata-azure": "168.63.129.16",
    "metadata-ec2-6": "[fd00:ec2::254]",
    "private-10": "10.0.0.1",
    "private-172": "172.31.255.254",
    "private-192": "192.168.1.1",
    "shared": "100.64.0.1",
    "benchmark": "198.18.0.1",
    "documentation": "203.0.113.9",
    "multicast": "224.0.0.1",
    "broadcast": "255.255.255.255",
    "reserved": "240.0.0.1",
    "relay-6to4": "192.88.99.1",
    "six-loopback": "[::1]",
    "six-long": "[0:0:0:0:0:0:0:1]",
    "six-any": "[::]",
    "six-link": "[fe80::1]",
    "six-zone": "[fe80::1%25eth0]",
    "six-zone-plain": "[fe80::1%eth0]",
    "six-unique": "[fc00::1]",
    "six-site": "[fec0::1]",
    "six-multicast": "[ff02::1]",
    "six-documentation": "[2001:db8::1]",
    "mapped": "[::ffff:127.0.0.1]",
    "mapped-hex": "[::ffff:7f00:1]",
    "mapped-metadata": "[::ffff:a9fe:a9fe]",
    "compatible": "[::127.0.0.1]",
    "translated": "[::ffff:0:127.0.0.1]",
    "nat64": "[64:ff9b::7f00:1]",
    "nat64-private": "[64:ff9b::10.0.0.1]",
    "nat64-local": "[64:ff9b:1::8.8.8.8]",
    "sixtofour": "[2002:7f00:1::1]",
    "teredo": "[2001:0:808:808::80ff:fffe]",
    "isatap": "[2606:4700::5efe:10.0.0.1]",
    "localhost": "localhost",
    "localhost-upper": "LOCALHOST",
    "localhost-dot": "localhost.",
    "localhost-below": "anything.localhost",
    "localhost-wide": "ｌｏｃａｌｈｏｓｔ",
    "localhost-circled": "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
    "wide-digits": "１２７.０.０.１",
    "circled-digits": "①②⑦.⓪.⓪.①",
    "ideographic-dots": "127。0。0。1",
    "encoded": "%31%32%37.0.0.1",
    "encoded-dots": "127%2e0%2e0%2e1",
    "encoded-name": "local%68ost",
    "soft-hyphen": "local\u00adhost",
    "zero-width": "local\u200bhost",
    "user": "images.example@127.0.0.1",
    "user-password": "images.example:443@127.0.0.1",
    "user-empty": "@127.0.0.1",
    "user-encoded": "images.example%40127.0.0.1",
    "user-twice": "a@images.example@127.0.0.1",
    "backslash": "127.0.0.1\\@images.example",
    "backslash-path": "images.example\\.127.0.0.1",
    "tab": "127.0.0\t.1",
    "line": "127.0.0.1\r\nHost: images.example",
    "null": "127.0.0.1\0.images.example",
    "space": "images.example 127.0.0.1",
    "no-host": "",
    "only-port": ":80",
    "port-0": "images.example:0",
    "port-large": "images.example:65536",
    "port-word": "images.example:http",
    "brackets": "[127.0.0.1]",
    "bracket-open": "[::1",
    "dots": "images..example",
    "comma": "images.example,127.0.0.1",
    "star": "*.example",
}


def refuse(url: str, names: Names | None = None) -> str:
    """Fetch the URL; return the error's message."""
    network = Routed()
    fetcher = Fetcher(OPEN, 2**20, GuardedBackend(resolve=names or Names(), network=network))
    try:
        with pytest.raises(BadImage) as refused:
            fetcher.fetch(url, timeout_s=10)
    finally:
        fetcher.close()
    assert network.addresses == []
    return str(refused.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", LITERALS.values(), ids=LITERALS)
def test_a_host_that_is_an_address_of_the_inside_or_looks_like_one_is_refused(host: str, scheme: str) -> None:
    assert "/secret" not in refuse(f"{scheme}://{host}/secret")


URLS = {
    "slashes-1": "http:/127.0.0.1/",
    "slashes-0": "http:127.0.0.1",
    "slashes-3": "http:///127.0.0.1/",
    "slashes-back": "http:\\\\127.0.0.1\\",
    "slashes-mixed": "https:/\\127.0.0.1/",
    "space-first": " http://127.0.0.1/",
    "no-scheme": "//127.0.0.1/",
    "ftp": "ftp://127.0.0.1/a.png",
    "gopher": "gopher://127.0.0.1:6379/_FLUSHALL",
    "dict": "dict://127.0.0.1:6379/info",
    "ldap": "ldap://127.0.0.1/",
    "jar": "jar:http://127.0.0.1!/a",
    "data": "data:image/png;base64,AAAA",
    "unix": "http+unix://%2Frun%2Fredis.sock/",
    "blob": "blob:http://127.0.0.1/a",
    "file": "file:///etc/passwd",
    "file-host": "file://127.0.0.1/etc/passwd",
    "file-null": "file:///etc/passwd%00.png",
    "file-upper": "FILE:///etc/passwd",
    "file-relative": "file:etc/passwd",
    "bucket": "s3://bucket/key.png",
    "bucket-up": "s3://bucket/../other/key.png",
    "bucket-none": "gs:///key.png",
    "long": "https://images.example/" + "a" * 9000,
}


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_other_schemes_and_forms_are_refused(url: str) -> None:
    refuse(url)


RECORDS = {
    "loopback": ["127.0.0.1"],
    "metadata": ["169.254.169.254"],
    "six": ["::1"],
    "mapped": ["::ffff:10.0.0.1"],
    "zone": ["fe80::1%eth0"],
    "last-private": [PUBLIC, "10.0.0.1"],
    "first-private": ["10.0.0.1", PUBLIC],
    "middle-private": [PUBLIC, "::ffff:7f00:1", "8.8.8.8"],
    "any": [PUBLIC, "0.0.0.0"],
}


@pytest.mark.parametrize("records", RECORDS.values(), ids=RECORDS)
def test_a_name_is_refused_unless_all_its_addresses_are_public(records: list[str]) -> None:
    said = refuse("https://images.example/secret.png?token=secret", Names({"images.example": [records]}))
    assert "VQA_FETCH_PRIVATE" in said
    assert not any(each in said for each in (*records, "secret"))


def test_a_name_of_the_inside_is_told_like_one_that_does_not_exist() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        if host == "inside.example":
            return ["10.0.0.1"]
        raise socket.gaierror(socket.EAI_AGAIN if host == "silent.example" else socket.EAI_NONAME, "secret")

    def fetch(host: str, private: bool = False) -> str:
        settings = FetchSettings(hosts="http://*:*", private=private, timeout_s=0.2)
        with closing(Fetcher(settings, 2**20, GuardedBackend(private, resolve, Routed()))) as fetcher:
            with pytest.raises((BadImage, ImageUnavailable)) as refused:
                fetcher.fetch(f"http://{host}/")
            return f"{refused.type.__name__} {refused.value}".replace(host, "HOST")

    assert fetch("inside.example") == fetch("nothing.example")
    assert fetch("inside.example").startswith("BadImage HOST: the host has an address that is not public, or none")
    # a name server that does not answer, or that will know the name once its container is up
    assert fetch("silent.example").startswith("ImageUnavailable")
    assert fetch("nothing.example", private=True).startswith("ImageUnavailable")
