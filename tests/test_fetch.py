"""Fetching from hosts that lie, dawdle, flood, and point at what is none of their business."""

from __future__ import annotations

import datetime
import gzip
import ipaddress
import socket
import ssl
import time

import pytest
from picture_server import SILENT, Answer, picture_server, redirect, truncated

from curate.downloads.fetch import (
    PRIVATE_NETWORKS,
    FetchError,
    Limits,
    Opener,
    Request,
    is_allowed,
    worth_retrying,
)

ONE_ADDRESS = (ipaddress.ip_network("127.0.0.1/32"),)
BODY = bytes(range(256)) * 16


@pytest.fixture(scope="module")
def tls():
    return ssl.create_default_context()  # takes a while: one for all tests


@pytest.fixture
def opener(tls):
    return lambda **limits: Opener(
        Limits(**{"bytes": 10_000, "seconds": 5, "also_allowed": ONE_ADDRESS, **limits}), tls
    )


def body_of(opener: Opener, url: str, timeout: float = 2) -> bytes:
    with opener.urlopen(Request(url, headers={"User-Agent": "test"}), timeout) as response:
        return response.read()


def kind_of(opener: Opener, url: str, timeout: float = 2) -> str:
    with pytest.raises(FetchError) as caught:
        body_of(opener, url, timeout)
    return caught.value.kind


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1",
        "100.100.100.200", "169.254.169.254", "192.0.0.192", "198.18.0.1", "224.0.0.1",
        "239.255.255.250", "203.0.113.9", "240.0.0.1", "255.255.255.255", "168.63.129.16",
        "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1",
        "100::1", "4000::1", "2001::1", "3fff::1", "2001:10::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_on_the_internet_are_refused(address):
    assert not is_allowed(ipaddress.ip_address(address), ())


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "151.101.1.69", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_on_the_internet_are_not_refused(address):
    assert is_allowed(ipaddress.ip_address(address), ())


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", True), ("10.0.0.1", True), ("::1", True), ("::ffff:10.0.0.1", True),
        ("169.254.169.254", False), ("fe80::1", False), ("0.0.0.0", False), ("224.0.0.1", False),
    ],
)  # fmt: skip
def test_allowing_private_addresses_never_opens_where_clouds_keep_credentials(address, allowed):
    assert is_allowed(ipaddress.ip_address(address), PRIVATE_NETWORKS) is allowed


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0.0.0.0", "[::ffff:127.0.0.1]"],
)
def test_a_private_address_is_refused_however_it_is_written(opener, host):
    with picture_server({"/": BODY}) as server:
        url = f"http://{host}:{server.port}/"
        assert kind_of(opener(also_allowed=()), url) == "refused_address"
        assert not server.hits


def test_a_redirect_to_a_private_address_is_refused(opener):
    with picture_server({"/secret": BODY}, host="127.0.0.2") as inner:
        answers = {
            "/inner": redirect(inner.url("/secret")),
            "/cloud": redirect("http://169.254.169.254/latest/meta-data/", 307),
        }
        with picture_server(answers) as outer:
            assert kind_of(opener(), outer.url("/inner")) == "refused_address"
            assert kind_of(opener(), outer.url("/cloud")) == "refused_address"
            assert not inner.hits
            both = (*ONE_ADDRESS, ipaddress.ip_network("127.0.0.2/32"))
            assert body_of(opener(also_allowed=both), outer.url("/inner")) == BODY


def answering(*rounds: list[str]):
    """A resolver for the name `host.test`; each call takes the next round of addresses."""
    waiting = list(rounds)

    def getaddrinfo(_host, port, **_):
        addresses = waiting.pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (name, port)) for name in addresses]

    return getaddrinfo


def test_a_name_is_looked_up_once_and_the_address_checked_is_the_one_connected_to(
    opener, monkeypatch
):
    with picture_server({"/": BODY}) as server:
        monkeypatch.setattr(socket, "getaddrinfo", answering(["127.0.0.1"]))
        assert body_of(opener(), f"http://host.test:{server.port}/") == BODY


def test_of_several_addresses_only_the_allowed_ones_are_tried(opener, monkeypatch):
    with (
        picture_server({"/": BODY}) as server,
        picture_server({"/": b"wrong"}, host="127.0.0.2", port=server.port) as inner,
    ):
        monkeypatch.setattr(socket, "getaddrinfo", answering(["127.0.0.2", "127.0.0.1"]))
        assert body_of(opener(), f"http://host.test:{server.port}/") == BODY
        assert not inner.hits


def test_another_address_is_tried_where_one_does_not_answer(opener, monkeypatch):
    nets = tuple(map(ipaddress.ip_network, ("127.0.0.1/32", "127.0.0.3/32")))
    with picture_server({"/": BODY}) as server:
        monkeypatch.setattr(socket, "getaddrinfo", answering(["127.0.0.3", "127.0.0.1"]))
        url = f"http://host.test:{server.port}/"
        assert body_of(opener(also_allowed=nets), url) == BODY


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:image/png;base64,AA==", "//x/y", "x"]
)
def test_only_http_and_https_are_spoken(opener, url):
    assert kind_of(opener(), url) == "refused_scheme"
    if ":" in url:
        with picture_server({"/": redirect(url)}) as server:
            assert kind_of(opener(), server.url("/")) == "refused_scheme"


@pytest.mark.parametrize(
    "url",
    ["http://", "http:///path", "http://a b/", "http://[::1", "http://[zz::1]/", "http://x:99999/",
     "http://a\x00b/", "http://\u2100.example\uff0f/", "http://" + "a" * 70 + ".example/"],
)  # fmt: skip
def test_urls_that_are_none_are_bad_urls(opener, url):
    assert kind_of(opener(), url) == "bad_url"


def test_five_redirects_are_followed_and_no_more(opener):
    answers = {f"/{n}": redirect(f"{n - 1}") for n in range(1, 7)}
    with picture_server({**answers, "/0": BODY, "/loop": redirect("/loop")}) as server:
        assert body_of(opener(), server.url("/5")) == BODY
        assert kind_of(opener(), server.url("/6")) == "too_many_redirects"
        assert kind_of(opener(), server.url("/loop")) == "too_many_redirects"
        assert server.hits["/loop"] == 6


def test_paths_that_are_not_ascii_are_asked_for_as_browsers_do(opener):
    with picture_server(
        {"/caf%C3%A9%20x?q=%C3%A9": BODY, "/go": redirect("/café x?q=é".encode().decode("latin-1"))}
    ) as server:
        assert body_of(opener(), server.url("/café x?q=é#part")) == BODY
        assert body_of(opener(), server.url("/go")) == BODY


def test_the_request_names_the_host_and_asks_for_no_compression(opener):
    with picture_server({"/": BODY}) as server:
        body_of(
            opener(also_allowed=PRIVATE_NETWORKS), f"http://user:secret@localhost:{server.port}/"
        )
    head = server.requests[0].decode().lower()
    assert f"\r\nhost: localhost:{server.port}\r\n" in head
    assert "accept-encoding: identity" in head
    assert "user-agent: test" in head
    assert "secret" not in head


def test_proxies_of_the_environment_are_not_used(opener, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with picture_server({"/": BODY}) as server:
        assert body_of(opener(), server.url("/")) == BODY


def test_bytes_are_capped_whatever_the_headers_say(opener):
    size = len(BODY)
    answers = {
        "/right": BODY,
        "/announced": Answer(BODY, declared_bytes=10**12),
        "/endless": Answer(BODY, endless=True),
        "/no-length": Answer(BODY + b"x", declared_bytes=-1),
        "/chunked": Answer(BODY + b"x", chunked="whole"),
        "/headers": Answer(raw=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500_000),
        "/continue": Answer(raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 200_000),
    }
    with picture_server(answers) as server:
        capped = opener(bytes=size)
        assert body_of(capped, server.url("/right")) == BODY
        for path in ("/announced", "/endless", "/no-length", "/chunked", "/continue"):
            assert kind_of(capped, server.url(path)) == "too_many_bytes", path
        assert kind_of(capped, server.url("/headers")) == "bad_response"


def test_a_compressed_body_is_not_inflated(opener):
    bomb = gzip.compress(bytes(5_000_000))
    headers = (("Content-Encoding", "gzip"),)
    with picture_server({"/": Answer(bomb, headers=headers)}) as server:
        assert body_of(opener(), server.url("/")) == bomb


def test_seconds_are_capped_however_steadily_bytes_come(opener):
    answers = {
        "/body": Answer(BODY, drip_s=0.02),
        "/head": Answer(BODY, drip_head_s=0.02),
        "/silent": SILENT,
    }
    with picture_server(answers) as server:
        for path in answers:
            began = time.monotonic()
            assert kind_of(opener(seconds=0.4), server.url(path)) == "too_slow", path
            assert time.monotonic() - began < 1.5
        began = time.monotonic()
        assert kind_of(opener(), server.url("/silent"), timeout=0.2) == "timeout"
        assert time.monotonic() - began < 1.5


def test_redirects_share_one_allowance_of_seconds(opener):
    slow = Answer(status=302, headers=(("Location", "/loop"),), drip_head_s=0.004)  # 0.4 s each
    with picture_server({"/loop": slow}) as server:
        assert kind_of(opener(seconds=0.8), server.url("/loop")) == "too_slow"


def test_a_body_that_ends_early_is_an_error(opener):
    answers = {
        "/length": truncated(BODY),
        "/chunk": Answer(BODY, chunked="cut"),
        "/whole": Answer(BODY, chunked="whole"),
        "/until-close": Answer(BODY, declared_bytes=-1),
    }
    with picture_server(answers) as server:
        assert kind_of(opener(), server.url("/length")) == "truncated_body"
        assert kind_of(opener(), server.url("/chunk")) == "truncated_body"
        assert body_of(opener(), server.url("/whole")) == BODY
        assert body_of(opener(), server.url("/until-close")) == BODY


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(status=404), "http_404"),
        (Answer(status=500), "http_500"),
        (Answer(status=302), "http_302"),  # to nowhere
        (Answer(status=304), "http_304"),
        (Answer(raw=b"SSH-2.0-OpenSSH_9.2\r\n"), "bad_response"),
        (Answer(raw=b""), "connection_reset"),
    ],
)
def test_answers_that_are_no_picture_have_a_class_of_their_own(opener, answer, kind):
    with picture_server({"/": answer}) as server:
        assert kind_of(opener(), server.url("/")) == kind


def test_hosts_that_are_not_there(opener):
    with picture_server({}) as server:
        closed = server.url("/")
    assert kind_of(opener(), closed) == "connection_refused"
    assert kind_of(opener(), "http://no-such-host.invalid/") == "dns"


def test_what_may_pass_is_worth_another_try_and_a_verdict_is_not():
    assert all(map(worth_retrying, ["timeout", "http_503", "http_429", "truncated_body", "dns"]))
    assert not any(map(worth_retrying, ["http_404", "refused_address", "opted_out", "too_slow"]))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for `localhost` that signs itself, and its key, in one PEM file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


def test_tls_is_checked_against_the_name_in_the_url_though_an_address_is_connected_to(
    certificate, tls
):
    asked = []
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    serving.sni_callback = lambda _socket, name, _context: asked.append(name)
    trusting = ssl.create_default_context(cafile=str(certificate))
    limits = Limits(bytes=10_000, seconds=5, also_allowed=PRIVATE_NETWORKS)
    with picture_server({"/": BODY}, tls=serving) as server:
        url = f"https://localhost:{server.port}/"
        assert body_of(Opener(limits, trusting), url) == BODY
        assert asked == ["localhost"]
        assert kind_of(Opener(limits, trusting), server.url("/")) == "tls"  # 127.0.0.1: not in it
        assert kind_of(Opener(limits, tls), url) == "tls"  # signed by nobody known
