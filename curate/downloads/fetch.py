"""Fetch one URL given by a stranger: every address is checked, bytes and seconds are capped.

img2dataset calls `urlopen(request, timeout).read()` with no limit of any kind. `Opener` stands in
for it: http and https only, no proxies from the environment, no cookies, nothing decompressed.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# What `allow_private_addresses` opens. Link-local is not among them: that is where clouds keep
# the credentials of a machine.
PRIVATE_NETWORKS: tuple[Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10",
        "::1/128", "fc00::/7",
    )
)  # fmt: skip

# Every kind of failure, beside http_404 and the like. The names are part of what is stored.
KINDS = frozenset(
    {
        "bad_url", "refused_scheme", "dns", "refused_address", "connection_refused",
        "connection_reset", "connection_failed", "tls", "timeout", "too_slow", "bad_response",
        "too_many_redirects", "too_many_bytes", "truncated_body",
    }
)  # fmt: skip
_TRANSIENT = frozenset(
    {
        "dns", "connection_refused", "connection_reset", "connection_failed", "timeout",
        "bad_response", "truncated_body", "http_408", "http_425", "http_429",
    }
)  # fmt: skip

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DEFAULT_PORTS = {"http": 80, "https": 443}
# IANA's special-purpose addresses, written out: what `ipaddress` calls global differs between
# patch versions of Python. The last is Azure's host: it looks public, and serves a machine's own.
_SPECIAL_IPV4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",
    )
)  # fmt: skip
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")  # all that has been given out so far
_SPECIAL_IPV6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_UNSENDABLE = re.compile(rb"[^\x21-\x7e]")
_HEADER_BYTES = 1 << 20  # what headers, chunk sizes and trailers may take beside the body
_CHUNK_BYTES = 1 << 18


class FetchError(Exception):
    """A URL that gave nothing; `kind` is the class that is counted, stable between versions."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


def worth_retrying(kind: str) -> bool:
    """Whether the same URL may well answer if it is asked again at once."""
    return kind in _TRANSIENT or re.fullmatch(r"http_5\d\d", kind) is not None


@dataclass(frozen=True)
class Limits:
    """What one fetch may cost, redirects included, and where it may go."""

    bytes: int
    seconds: float
    redirects: int = 5
    also_allowed: tuple[Network, ...] = ()  # networks to reach beside the global ones


@dataclass(frozen=True)
class Request:
    """What img2dataset builds for one picture (its `urllib.request.Request`)."""

    url: str
    data: None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def is_allowed(address: Address, also_allowed: tuple[Network, ...]) -> bool:
    """Whether an address may be connected to; one that embeds an IPv4 address counts as that."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_allowed(inner, also_allowed)
        is_global = address in _GLOBAL_IPV6 and not _is_in(address, _SPECIAL_IPV6)
    else:
        is_global = not _is_in(address, _SPECIAL_IPV4)
    return is_global or _is_in(address, also_allowed)


def _is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)  # never in one of the other version


@dataclass(frozen=True)
class _Patience:
    """How long to wait: for one answer of the socket, and for everything together."""

    timeout_s: float
    deadline: float  # of time.monotonic()

    def seconds(self) -> float:
        """How long the next operation may take; FetchError when nothing is left."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise FetchError("too_slow", "the total time was spent")
        return min(self.timeout_s, left)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Turn what sockets, TLS and HTTP raise into FetchError."""
        try:
            yield
        except TimeoutError:
            self.seconds()  # too_slow where the total time is what ended it
            raise FetchError("timeout", f"no answer in {self.timeout_s:g} s") from None
        except http.client.IncompleteRead:
            raise FetchError("truncated_body", "the last chunk never came") from None
        except ssl.SSLError as error:
            raise FetchError("tls", error.reason or str(error)) from None
        except ConnectionRefusedError:
            raise FetchError("connection_refused", "nothing listens there") from None
        except ConnectionError as error:  # http.client.RemoteDisconnected among them
            raise FetchError("connection_reset", str(error)) from None
        except OSError as error:
            raise FetchError("connection_failed", error.strerror or str(error)) from None
        except http.client.HTTPException as error:
            raise FetchError("bad_response", f"{type(error).__name__} {error}"[:200]) from None


class _Wire(io.RawIOBase):
    """What comes out of a socket, against a deadline and a count of bytes."""

    def __init__(self, sock: socket.socket, patience: _Patience, most_bytes: int) -> None:
        self._sock = sock
        self._patience = patience
        self._bytes_left = most_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._patience.seconds())
        count = self._sock.recv_into(buffer)
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise FetchError("too_many_bytes", "headers and body together")
        return count

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What http.client asks a socket for."""
        return io.BufferedReader(self, 1 << 16)


class Response:
    """An answer whose headers have been read; the body has not."""

    def __init__(self, sock: socket.socket, patience: _Patience, most_bytes: int) -> None:
        self._sock = sock
        self._patience = patience
        self._most_bytes = most_bytes
        wire = _Wire(sock, patience, most_bytes + _HEADER_BYTES)
        self._http = http.client.HTTPResponse(wire, method="GET")  # type: ignore[arg-type]  # only makefile is used
        with patience.named():
            self._http.begin()

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._http.status

    @property
    def headers(self) -> http.client.HTTPMessage:
        """The headers, as urllib gives them."""
        return self._http.headers

    def read(self) -> bytes:
        """The whole body, as sent: a Content-Encoding is not undone."""
        declared: int | None = self._http.length
        if declared is not None and declared > self._most_bytes:
            raise FetchError("too_many_bytes", f"{declared} bytes announced")
        parts: list[bytes] = []
        total = 0
        with self._patience.named():
            while part := self._http.read(_CHUNK_BYTES):
                parts.append(part)
                total += len(part)
                if total > self._most_bytes:
                    raise FetchError("too_many_bytes", f"more than {self._most_bytes} bytes")
        if declared is not None and total < declared:
            raise FetchError("truncated_body", f"{total} of {declared} bytes came")
        return b"".join(parts)

    def close(self) -> None:
        """Hang up."""
        self._http.close()
        self._sock.close()

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _at: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Opener:
    """A `urlopen` for URLs of strangers; one serves any number of threads."""

    limits: Limits
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    def urlopen(self, request: Request, timeout: float) -> Response:
        """The answer to a GET, redirects followed.

        Args:
            request: URL and headers.
            timeout: Seconds to wait for any one answer of the socket; `limits.seconds` caps all.

        Raises:
            FetchError: nothing usable came; an HTTP status other than 2xx is `http_404` and so on.
        """
        patience = _Patience(timeout, time.monotonic() + self.limits.seconds)
        url = request.url
        for _ in range(self.limits.redirects + 1):
            response = self._get(url, request.headers, patience)
            location = response.headers.get("Location")
            if response.status in _REDIRECTS and location:
                response.close()
                url = _joined(url, location)
            elif 200 <= response.status < 300:
                return response
            else:
                response.close()
                raise FetchError(
                    f"http_{response.status}", http.client.responses.get(response.status, "")
                )
        raise FetchError("too_many_redirects", f"more than {self.limits.redirects}")

    def _get(self, url: str, headers: Mapping[str, str], patience: _Patience) -> Response:
        parts, host, port = _parse(url)
        sock = _connect(host, port, self.limits.also_allowed, patience)
        try:
            with patience.named():
                if parts.scheme == "https":
                    sock.settimeout(patience.seconds())
                    sock = self.tls.wrap_socket(sock, server_hostname=host)
                sock.settimeout(patience.seconds())
                sock.sendall(_request_head(parts, host, port, headers))
            return Response(sock, patience, self.limits.bytes)
        except BaseException:
            sock.close()  # whatever ends this: a socket must not outlive it
            raise


def _joined(url: str, location: str) -> str:
    # Header bytes arrive read as Latin-1; percent-encoded they are again what was sent.
    quoted = quote(location, safe="".join(map(chr, range(0x21, 0x7F))), encoding="latin-1")
    try:
        return urljoin(url, quoted)
    except ValueError as error:
        raise FetchError("bad_url", f"redirected to {location!r}: {error}") from None


def _parse(url: str) -> tuple[SplitResult, str, int]:
    """(parts, host in ASCII, port) of a URL that may be fetched."""
    try:
        parts = urlsplit(url.strip())
        if parts.scheme not in _DEFAULT_PORTS:
            raise FetchError("refused_scheme", parts.scheme[:40] or "none")
        host = (parts.hostname or "").encode("idna").decode("ascii")
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
    except ValueError as error:  # UnicodeError among them
        raise FetchError("bad_url", str(error)[:200]) from None
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise FetchError("bad_url", f"host {host[:80]!r}") from None
    elif not _HOST.fullmatch(host):
        raise FetchError("bad_url", f"host {host[:80]!r}")
    return parts, host, port


def _request_head(parts: SplitResult, host: str, port: int, headers: Mapping[str, str]) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    sendable = _UNSENDABLE.sub(
        lambda found: b"%%%02X" % found[0][0], target.encode("utf-8", "surrogatepass")
    )
    name = f"[{host}]" if ":" in host else host
    name = name if port == _DEFAULT_PORTS[parts.scheme] else f"{name}:{port}"
    fixed = {"Host": name, "Accept-Encoding": "identity", "Connection": "close"}
    lines = [f"{key}: {value}" for key, value in {**fixed, **headers}.items()]
    return b"GET " + sendable + b" HTTP/1.1\r\n" + "\r\n".join(lines).encode("ascii") + b"\r\n\r\n"


def _connect(
    host: str, port: int, also_allowed: tuple[Network, ...], patience: _Patience
) -> socket.socket:
    """A connection to an address that was checked: the name is not looked up a second time."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError("dns", f"{host[:80]}: {error}") from None
    addresses = [answer for answer in found if _is_allowed_text(str(answer[4][0]), also_allowed)]
    if not addresses:
        raise FetchError("refused_address", f"{host[:80]} is {found[0][4][0]}")
    for family, kind, protocol, _, address in addresses[:-1]:
        with suppress(FetchError):  # another address of the same host may answer
            return _connect_to((family, kind, protocol), address, patience)
    family, kind, protocol, _, address = addresses[-1]
    return _connect_to((family, kind, protocol), address, patience)


def _is_allowed_text(address: str, also_allowed: tuple[Network, ...]) -> bool:
    return is_allowed(ipaddress.ip_address(address), also_allowed)


def _connect_to(kind: tuple[int, int, int], address: Any, patience: _Patience) -> socket.socket:
    seconds = patience.seconds()
    with patience.named():
        sock = socket.socket(*kind)
        try:
            sock.settimeout(seconds)
            sock.connect(address)
        except OSError:
            sock.close()
            raise
    return sock
