"""A real HTTP server on loopback for tests: pictures, and everything a bad host does to a client.

    with picture_server({"/a.jpg": body, "/gone.jpg": Answer(status=404)}) as server:
        ... server.url("/a.jpg") ... server.hits["/a.jpg"]

In a process of its own (`where="process"`) it takes no time from what is being measured, and
counts no hits.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import ssl
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import responses
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

TYPES = {
    "jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp",
    "gif": "image/gif", "bmp": "image/bmp", "svg": "image/svg+xml",
}  # fmt: skip
_PATIENCE_S = 60  # no test takes so long


@dataclass(frozen=True)
class Answer:
    """What one path answers. A plain `bytes` or `Path` is a 200 with that body."""

    body: bytes | Path = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    declared_bytes: int | None = None  # the Content-Length, where it lies; -1: none is sent
    drip_s: float | None = None  # the body comes byte by byte, so many seconds apart
    drip_head_s: float | None = None  # as above, from the status line on
    wait_s: float = 0  # before anything is answered
    endless: bool = False  # the body is repeated for ever
    chunked: Literal["", "whole", "cut"] = ""  # Transfer-Encoding: chunked; cut: no last chunk
    raw: bytes | None = None  # sent in place of any HTTP
    failures: int = 0  # the first so many requests get a 503


NOT_FOUND = Answer(b"not found", status=404)
HTML = Answer(
    b"<!doctype html><title>Domain for sale</title>", headers=(("Content-Type", "text/html"),)
)


def redirect(location: str, status: int = 302) -> Answer:
    """Go elsewhere."""
    return Answer(status=status, headers=(("Location", location),))


SILENT = Answer(wait_s=3600)  # the request is read, and nothing comes


def opted_out(body: bytes, directive: str = "noai") -> Answer:
    """A picture whose owner does not want it used."""
    return Answer(body, headers=(("X-Robots-Tag", directive),))


def truncated(body: bytes) -> Answer:
    """Half of what the Content-Length says."""
    return Answer(body[: len(body) // 2], declared_bytes=len(body))


Answers = Mapping[str, "bytes | Path | Answer"]


@dataclass
class Server:
    """A running server; `hits` are counted per path, query included (in this process only)."""

    host: str
    port: int
    scheme: str = "http"
    hits: Counter[str] = field(default_factory=Counter)
    requests: list[bytes] = field(default_factory=list)  # the heads, as they came

    def url(self, path: str) -> str:
        """The whole URL of a path."""
        return f"{self.scheme}://{self.host}:{self.port}{path}"


class _Handler:
    def __init__(self, answers: Answers, server: Server) -> None:
        self.answers = answers
        self.server = server

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await asyncio.wait_for(self._answer(head, writer), _PATIENCE_S)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # a client that hangs up is what many tests are about
        finally:
            writer.close()

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        path = head.split(b" ", 2)[1].decode("latin-1")
        self.server.hits[path] += 1
        self.server.requests.append(head)
        answer = self.answers.get(path, NOT_FOUND)
        if not isinstance(answer, Answer):
            answer = Answer(answer)
        if self.server.hits[path] <= answer.failures:
            answer = Answer(status=503)
        await asyncio.sleep(answer.wait_s)
        body = answer.body.read_bytes() if isinstance(answer.body, Path) else answer.body
        if answer.raw is not None:
            writer.write(answer.raw)
        else:
            await _drip(writer, _head(path, answer, len(body)), answer.drip_head_s)
            await _send(writer, body, answer)
        await writer.drain()


def _head(path: str, answer: Answer, size: int) -> bytes:
    names = {name.lower() for name, _ in answer.headers}
    lines = [f"HTTP/1.1 {answer.status} {responses.get(answer.status, '')}"]
    if "content-type" not in names:
        kind = TYPES.get(path.rpartition(".")[2].lower(), "application/octet-stream")
        lines.append(f"Content-Type: {kind}")
    if answer.chunked:
        lines.append("Transfer-Encoding: chunked")
    elif answer.declared_bytes != -1 and not answer.endless:
        declared = size if answer.declared_bytes is None else answer.declared_bytes
        lines.append(f"Content-Length: {declared}")
    lines += [f"{name}: {value}" for name, value in answer.headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


async def _send(writer: asyncio.StreamWriter, body: bytes, answer: Answer) -> None:
    if answer.chunked:
        body = b"%x\r\n%b\r\n" % (len(body), body)
        body += b"0\r\n\r\n" if answer.chunked == "whole" else b""
    await _drip(writer, body, answer.drip_s)
    while answer.endless:
        writer.write(body)
        await writer.drain()


async def _drip(writer: asyncio.StreamWriter, data: bytes, seconds: float | None) -> None:
    if seconds is None:
        writer.write(data)
        return
    for byte in data:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(seconds)


async def _listen(
    server: Server, answers: Answers, tls: ssl.SSLContext | None
) -> asyncio.base_events.Server:
    return await asyncio.start_server(
        _Handler(answers, server), server.host, server.port, ssl=tls, backlog=1024
    )


def _port(listening: asyncio.base_events.Server) -> int:
    port: int = listening.sockets[0].getsockname()[1]
    return port


@contextmanager
def picture_server(
    answers: Answers,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    where: Literal["thread", "process"] = "thread",
) -> Iterator[Server]:
    """Serve `answers` ({path: what}) on loopback until the block ends; port 0 is any free one."""
    server = Server(host, port, "https" if tls else "http")
    if where == "process":
        with _in_process(server, answers) as running:
            yield running
        return
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # TLS clients that give up, and the like
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    listening = asyncio.run_coroutine_threadsafe(_listen(server, answers, tls), loop).result()
    server.port = _port(listening)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(_stop(listening), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _stop(listening: asyncio.base_events.Server) -> None:
    listening.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def _in_process(server: Server, answers: Answers) -> Iterator[Server]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(server, answers, theirs), daemon=True)
    process.start()
    try:
        yield replace(server, port=ours.recv())
    finally:
        process.terminate()
        process.join()


def _serve(server: Server, answers: Answers, to_parent: Connection) -> None:
    async def serve() -> None:
        listening = await _listen(server, answers, None)
        to_parent.send(_port(listening))
        await listening.serve_forever()

    asyncio.run(serve())
