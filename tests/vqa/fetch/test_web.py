"""Servers that answer, redirect, lie, dawdle and never end: what is fetched, and what is refused."""

import gzip
import logging
import ssl
from pathlib import Path

import pytest

from tests.vqa.fetch.conftest import LIMIT, MakeFetcher, MakePublic
from tests.vqa.fetch.network import OTHER, PUBLIC, Names
from tests.vqa.fetch.site import PNG, Reply, Site, redirect, repeats, response, says, served
from vqa.errors import BadImage, ImageUnavailable

Certificates = tuple[ssl.SSLContext, ssl.SSLContext]


def test_an_image_is_fetched_over_http_of_an_allowed_host(make_fetcher: MakeFetcher) -> None:
    site = Site()
    with served(site):
        assert make_fetcher(f"http://127.0.0.1:{site.port}").fetch(f"http://127.0.0.1:{site.port}/a?b=c") == PNG
    head = site.requests[0].decode()
    assert head.startswith("GET /a?b=c HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{site.port}\r\n" in head
    assert "Accept-Encoding: identity\r\n" in head


def test_an_image_is_fetched_over_https_from_the_address_that_was_checked(
    make_public: MakePublic, certificates: Certificates
) -> None:
    # longer than headers may be
    image = PNG + bytes(90_000)
    site = Site(says(response(image)))
    with served(site, context=certificates[0]):
        fetcher, network = make_public(site)
        assert fetcher.fetch("https://images.example/a.png") == image
        # the connection is kept
        assert fetcher.fetch("https://images.example/b.png") == image
    assert (network.addresses, site.connections) == ([PUBLIC], 1)
    assert b"\r\nHost: images.example\r\n" in site.requests[0]


def test_a_certificate_of_another_name_or_of_nobody_is_permanent(
    make_public: MakePublic, certificates: Certificates, make_fetcher: MakeFetcher
) -> None:
    site = Site()
    with served(site, context=certificates[0]):
        fetcher, _ = make_public(site, Names({"other.example": [[PUBLIC]]}), hosts="other.example")
        with pytest.raises(BadImage, match=r"^other\.example: the server's certificate is not valid"):
            fetcher.fetch("https://other.example/a.png")
        url = f"https://127.0.0.1:{site.port}"
        with pytest.raises(BadImage, match=r"^127\.0\.0\.1: the server's certificate is not valid"):
            make_fetcher(url).fetch(url)
    assert site.requests == []


def test_proxies_and_passwords_of_the_environment_are_not_used(
    make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (netrc := tmp_path / "netrc").write_text("default login somebody password pa55\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    site = Site()
    with served(site):
        assert make_fetcher(f"http://127.0.0.1:{site.port}").fetch(f"http://127.0.0.1:{site.port}/") == PNG
    assert b"authorization" not in site.requests[0].lower()


CHUNKED = response(b"", Content_Length=None, Transfer_Encoding="chunked")


@pytest.mark.parametrize(
    "reply",
    [
        says(CHUNKED, b"%x\r\n" % len(PNG), PNG, b"\r\n0\r\n\r\n"),
        says(response(Content_Length=None, Connection="close"), close=True),
        says(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3, response()),
        *(says(response(content_type=each)) for each in (None, "image/jpeg; charset=x", "APPLICATION/OCTET-STREAM")),
        says(response(Content_Encoding="identity")),
        # its body is longer than it says, and the rest is not read
        says(response(PNG + b"GET / HTTP/1.1\r\n\r\n", Content_Length=str(len(PNG))), close=True),
    ],
    ids=["chunked", "until-closed", "early-hints", "no-type", "other-type", "binary", "identity", "more-than-said"],
)
def test_every_sound_form_of_a_response_is_taken(make_fetcher: MakeFetcher, reply: Reply) -> None:
    site = Site(reply)
    with served(site):
        assert make_fetcher(f"http://127.0.0.1:{site.port}").fetch(f"http://127.0.0.1:{site.port}/") == PNG


STARTED = CHUNKED + b"400\r\n" + PNG[:1024] + b"\r\n"
FLOOD = b"HTTP/1.1 100 Continue\r\n\r\n"
HTML = b"<html><script>secret()</script></html>"

PERMANENT: dict[str, tuple[Reply, str]] = {
    "404": (says(response(b"secret", "404 secret")), "HTTP 404"),
    "401": (says(response(b"secret", "401 secret")), "HTTP 401"),
    "204": (says(response(b"", "204 No Content", None)), "HTTP 204"),
    "206": (says(response(status="206 Partial Content")), "HTTP 206"),
    "304": (says(response(b"", "304 Not Modified", None)), "HTTP 304"),
    "300": (says(response(b"", "300 Multiple Choices", None, Location="/secret")), "HTTP 300"),
    "302-nowhere": (says(response(b"", "302 Found", None)), "HTTP 302"),
    "html": (
        says(response(HTML, content_type="text/html; charset=secret")),
        "no image, PDF document or video but t",
    ),
    "other-type": (says(response(content_type="application/secret")), "no image, PDF document or video$"),
    "lying-type": (says(response(HTML)), "does not begin as an image"),
    "lying-binary": (
        says(response(b"root:x:0:0:secret", content_type="application/octet-stream")),
        "does not begin as",
    ),
    "svg": (says(response(b"<svg xmlns='secret'/>", content_type="image/svg+xml")), "does not begin as an image"),
    "empty": (says(response(b"")), "does not begin as an image"),
    "few": (says(response(b"\x89PN")), "does not begin as an image"),
    "long-said": (says(response(Content_Length=str(LIMIT + 1))), "over 100,000 bytes.*VQA_IMAGE_MAX_BYTES"),
    "long-huge": (says(response(Content_Length="9" * 19)), "over 100,000 bytes.*VQA_IMAGE_MAX_BYTES"),
    "endless": (repeats(response(Content_Length=None), bytes(4096)), "over 100,000 bytes.*VQA_IMAGE_MAX_BYTES"),
    "endless-chunks": (
        repeats(CHUNKED + b"8\r\n" + PNG[:8] + b"\r\n", b"1000\r\n" + bytes(4096) + b"\r\n"),
        "over 100,000",
    ),
    "tiny-chunks": (repeats(STARTED, b"1\r\nx\r\n" * 999), "pieces of a few bytes"),
    "long-header": (says(response(X="secret" * 20_000)), "headers without end"),
    "many-headers": (repeats(b"HTTP/1.1 200 OK\r\n", b"X: secret\r\n" * 100), "headers without end"),
    "interim-flood": (repeats(b"", FLOOD * 100), "headers without end"),
    "gzip-bomb": (says(response(gzip.compress(bytes(10**7)), Content_Encoding="gzip")), "compresses the image"),
    "deflate": (says(response(Content_Encoding="deflate")), "compresses the image"),
    "gzip-twice": (says(response(Content_Encoding="identity, gzip")), "compresses the image"),
}


@pytest.mark.parametrize(("reply", "said"), PERMANENT.values(), ids=PERMANENT)
def test_what_is_no_image_is_refused_at_once(make_fetcher: MakeFetcher, reply: Reply, said: str) -> None:
    site = Site(reply)
    with served(site), pytest.raises(BadImage, match=said) as refused:
        make_fetcher(f"http://127.0.0.1:{site.port}").fetch(f"http://127.0.0.1:{site.port}/path?query")
    assert len(site.requests) == 1
    assert str(refused.value).startswith("127.0.0.1: ")
    assert not any(each in str(refused.value) for each in ("secret", "path", "query"))


TRANSIENT: dict[str, tuple[Reply, str]] = {
    "short-body": (says(response(Content_Length="5000"), close=True), "ends too early"),
    "closed-in-head": (says(response()[:30], close=True), "ends too early"),
    "closed-at-once": (says(close=True), "ends too early"),
    "101": (says(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), "not valid HTTP"),
    "no-http": (says(b"SSH-2.0-secret\r\n\r\n"), "not valid HTTP"),
    "broken-chunk": (says(CHUNKED, b"secret\r\n"), "not valid HTTP"),
    "two-lengths": (says(response(content_length="3")), "not valid HTTP"),
    "slow-head": (
        repeats(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.02),
        r"does not begin within 0\.2 s.*VQA_FETCH_FIRST_BYTE_S",
    ),
    "slow-interim": (repeats(b"", FLOOD, 0.02), "VQA_FETCH_FIRST_BYTE_S"),
    "silent": (repeats(b"", b"", 0.02), "VQA_FETCH_FIRST_BYTE_S"),
    "slow-body": (repeats(response(Content_Length="5000"), b"x", 0.02), r"within 0\.4 s \(VQA_FETCH_TIMEOUT_S\)"),
    "stalled-body": (repeats(response(Content_Length="5000"), b"", 0.02), "VQA_FETCH_TIMEOUT_S"),
    "500": (says(response(b"secret", "500 secret")), "HTTP 500"),
    "429": (says(response(b"secret", "429 secret")), "HTTP 429"),
    "408": (says(response(b"secret", "408 secret")), "HTTP 408"),
}


@pytest.mark.parametrize(("reply", "said"), TRANSIENT.values(), ids=TRANSIENT)
def test_what_may_be_well_later_is_unavailable_within_its_time(
    make_fetcher: MakeFetcher, reply: Reply, said: str
) -> None:
    site = Site(reply)
    fetcher = make_fetcher("http://127.0.0.1:*", timeout_s=0.4, first_byte_s=0.2)
    with served(site), pytest.raises(ImageUnavailable, match=said) as unavailable:
        fetcher.fetch(f"http://127.0.0.1:{site.port}/path?query", timeout_s=3)
    assert str(unavailable.value).startswith("127.0.0.1: ")
    assert not any(each in str(unavailable.value) for each in ("secret", "path", "query"))


def test_a_port_that_nobody_listens_on_is_unavailable(make_fetcher: MakeFetcher) -> None:
    with pytest.raises(ImageUnavailable, match=r"^127\.0\.0\.1: the host cannot be resolved or connected to"):
        make_fetcher("http://127.0.0.1:9", timeout_s=0.2).fetch("http://127.0.0.1:9/")


def test_the_limit_of_headers_is_that_of_each_response_on_a_connection(make_fetcher: MakeFetcher) -> None:
    long = says(response(X="x" * 80_000))
    site = Site(says(response()), long)
    with served(site):
        fetcher, url = make_fetcher("http://127.0.0.1:*"), f"http://127.0.0.1:{site.port}/"
        assert fetcher.fetch(url) == PNG
        with pytest.raises(BadImage, match="headers without end"):
            fetcher.fetch(url)
    assert site.connections == 1


def test_nothing_of_an_address_is_logged(make_fetcher: MakeFetcher, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    site = Site(redirect("/secret-b"), says(response(Set_Cookie="secret-c")))
    with served(site):
        make_fetcher("http://127.0.0.1:*").fetch(f"http://127.0.0.1:{site.port}/secret-a?secret")
    assert "secret" not in caplog.text


def test_redirects_are_followed_three_times(make_fetcher: MakeFetcher) -> None:
    site, other = Site(redirect("/b"), redirect("b/c?d#e"), says(response())), Site()
    with served(site, other):
        fetcher = make_fetcher("http://127.0.0.1:*")
        url = f"http://127.0.0.1:{site.port}/a"
        assert fetcher.fetch(url) == PNG
        assert [each.split()[1] for each in site.requests] == [b"/a", b"/b", b"/b/c?d"]
        site.replies = [redirect(f"//127.0.0.1:{other.port}/x", "307 Temporary Redirect")]
        assert fetcher.fetch(url) == PNG
        site.replies = [redirect("/again")]
        with pytest.raises(BadImage, match="redirects more than 3 times"):
            fetcher.fetch(url)
    assert len(site.requests) == 3 + 1 + 4


@pytest.mark.parametrize(
    "location",
    [
        *("https://127.0.0.1/secret", "http://169.254.169.254/secret", "https://secret.example/", "https://[::1]/"),
        *("http://images.example/secret", "//127.0.0.1:6379/secret", "https://user:secret@images.example/"),
        *("file:///etc/secret", "s3://secret/x", "gopher://127.0.0.1:6379/_secret", "data:image/png;base64,secret"),
        *("https://images.example:8443/secret", "https:\\\\127.0.0.1\\secret", "https://2130706433/secret"),
        *("https://[secret", "https://images.example\\@127.0.0.1/secret", "/secret secret"),
    ],
)
def test_a_redirect_to_where_nothing_may_be_fetched_from_is_refused(
    make_public: MakePublic, certificates: Certificates, location: str
) -> None:
    site = Site(redirect(location))
    with served(site, context=certificates[0]):
        fetcher, network = make_public(site)
        with pytest.raises(BadImage, match=r"^images\.example: the server redirects to an address that") as refused:
            fetcher.fetch("https://images.example/")
    assert (network.addresses, len(site.requests)) == ([PUBLIC], 1)
    assert not any(each in str(refused.value) for each in ("secret", "127", "169"))


def test_a_redirect_to_a_name_with_a_private_address_is_refused(
    make_public: MakePublic, certificates: Certificates
) -> None:
    site = Site(redirect("https://internal.example/secret"))
    names = Names({"images.example": [[PUBLIC]], "internal.example": [[PUBLIC, "10.0.0.1"]]})
    with served(site, context=certificates[0]):
        fetcher, network = make_public(site, names, hosts="*")
        with pytest.raises(BadImage, match="redirects to a host with an address that is not public") as refused:
            fetcher.fetch("https://images.example/")
    assert network.addresses == [PUBLIC]
    assert "internal" not in str(refused.value)


def test_a_redirect_from_https_to_http_is_refused_unless_that_is_allowed(
    make_public: MakePublic, certificates: Certificates
) -> None:
    secure, plain = Site(redirect("http://images.example/")), Site()
    with served(plain), served(secure, context=certificates[0]):
        fetcher, _ = make_public(secure)
        with pytest.raises(BadImage, match="redirects to an address that VQA_FETCH_HOSTS does not allow"):
            fetcher.fetch("https://images.example/")
        fetcher, network = make_public(plain, hosts="http://images.example")
        assert fetcher.fetch("http://images.example/") == PNG
    assert network.addresses == [PUBLIC]


def test_a_name_that_changes_its_mind_is_refused_when_it_is_connected_to_again(
    make_public: MakePublic, certificates: Certificates
) -> None:
    # closes each connection, so that each image needs a new one
    site = Site(says(response(Connection="close"), close=True))
    names = Names({"images.example": [[PUBLIC], ["127.0.0.1"], [PUBLIC, OTHER]]})
    with served(site, context=certificates[0]):
        fetcher, network = make_public(site, names)
        assert fetcher.fetch("https://images.example/1") == PNG
        with pytest.raises(BadImage, match="VQA_FETCH_PRIVATE"):
            fetcher.fetch("https://images.example/2")
        assert fetcher.fetch("https://images.example/3") == PNG
    # resolved once for each connection
    assert (network.addresses, len(names.asked)) == ([PUBLIC, PUBLIC], 3)
