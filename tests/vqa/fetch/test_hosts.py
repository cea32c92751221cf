"""Which addresses the entries of VQA_FETCH_HOSTS and VQA_FETCH_BUCKETS allow."""

import pytest

from vqa.errors import BadImage
from vqa.fetch.hosts import AllowedHosts
from vqa.fetch.prefixes import AllowedBuckets, parse_object_address
from vqa.fetch.url import parse_web_address


@pytest.mark.parametrize(
    ("entries", "url", "allowed"),
    [
        ("a.example", "https://a.example/x", True),
        ("a.example", "https://A.example./x", True),
        ("a.example", "https://b.a.example/", False),
        ("a.example", "https://a.example.evil/", False),
        ("a.example", "http://a.example/", False),
        ("a.example", "https://a.example:8443/", False),
        ("a.example:8443", "https://a.example:8443/", True),
        ("a.example:8443", "https://a.example/", False),
        ("a.example:443", "https://a.example/", True),
        ("a.example:*", "https://a.example:1/", True),
        ("https://a.example", "https://a.example/", True),
        ("http://a.example", "http://a.example/", True),
        ("http://a.example", "https://a.example/", True),
        ("http://a.example", "http://a.example:81/", False),
        ("http://a.example:80", "http://a.example/", True),
        ("*.a.example", "https://b.a.example/", True),
        ("*.a.example", "https://c.b.a.example/", True),
        ("*.a.example", "https://a.example/", False),
        ("*.a.example", "https://evila.example/", False),
        ("*.a.example:81", "https://b.a.example:81/", True),
        ("*", "https://anything.example/", True),
        ("*", "http://anything.example/", False),
        ("*", "https://anything.example:22/", False),
        ("http://*", "http://anything.example/", True),
        ("http://*:*", "http://anything.example:22/", True),
        ("*:8443", "https://anything.example:8443/", True),
        ("bücher.example", "https://xn--bcher-kva.example/", True),
        ("[2606:4700::1]", "https://[2606:4700:0::1]/", True),
        ("[2606:4700::1]:81", "https://[2606:4700::1]:81/", True),
        (" a.example , b.example,", "https://b.example/", True),
        ("any", "https://anything.example/", False),
        ("", "https://a.example/", False),
    ],
)
def test_an_entry_allows_its_hosts_scheme_and_port(entries: str, url: str, allowed: bool) -> None:
    hosts, address = AllowedHosts.parse(entries), parse_web_address(url)
    if allowed:
        hosts.check(address)
    else:
        with pytest.raises(BadImage, match="VQA_FETCH_HOSTS"):
            hosts.check(address)


@pytest.mark.parametrize(
    ("entries", "url", "allowed"),
    [
        ("s3://bucket", "s3://bucket/a/b.png", True),
        ("s3://bucket/", "S3://bucket/a.png", True),
        ("s3://bucket/a", "s3://bucket/a/b.png", True),
        ("s3://bucket/a/", "s3://bucket/a/b.png", True),
        ("s3://bucket/a", "s3://bucket/ab.png", False),
        ("s3://bucket/a", "s3://bucket/a", False),
        ("s3://bucket/a", "s3://bucket/b/a/c.png", False),
        ("s3://bucket", "s3://bucket2/a.png", False),
        ("s3://bucket", "gs://bucket/a.png", False),
        ("gs://one, az://two", "az://two/a.png", True),
        ("oss://bucket", "oss://bucket/图.png", True),
        ("s3://bucket/a", "s3://bucket/a%2f..%2fb.png", False),
        ("", "s3://bucket/a.png", False),
    ],
)
def test_an_entry_allows_what_is_below_its_prefix(entries: str, url: str, allowed: bool) -> None:
    buckets, address = AllowedBuckets.parse(entries), parse_object_address(url)
    if allowed:
        buckets.check(address)
    else:
        with pytest.raises(BadImage, match="VQA_FETCH_BUCKETS"):
            buckets.check(address)


@pytest.mark.parametrize(
    "url",
    [
        *("s3://bucket", "s3://bucket/", "s3:///a", "s3://bucket/a/../b", "s3://bucket/./a", "s3://bucket//a"),
        *("s3://bucket/a/", "s3://bucket/..", "s3://bucket/a\\b", "s3://bucket/a\nb", "s3://user@bucket/a"),
        *("s3://bucket:80/a", "s3://" + "b" * 80 + "/a", "s3://bucket/" + "a" * 1025, "https://bucket/a"),
    ],
)
def test_an_address_without_a_plain_key_is_refused(url: str) -> None:
    with pytest.raises(BadImage):
        parse_object_address(url)
