"""A web server on loopback for the quickstart's pictures, dead links and cut responses."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOOPBACK = "127.0.0.1"
# URLs are part of a sample's uid, so the quickstart asks for the same port every time.
DEFAULT_PORT = 8975
NOT_FOUND = b"not found"


@dataclass(frozen=True)
class Answer:
    """What a path answers; `missing_bytes` are promised in the header and never sent."""

    body: bytes
    content_type: str = "image/jpeg"
    status: int = 200
    missing_bytes: int = 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # more than the download threads open at once
    # The next run binds DEFAULT_PORT while connections of the last one still linger.
    allow_reuse_address = True

    def __init__(self, port: int, answers: Mapping[str, Answer]) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.answers = answers

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is its own affair: no traceback on the terminal."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        answer = self.server.answers.get(self.path, Answer(NOT_FOUND, "text/plain", 404))
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body) + answer.missing_bytes))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
        """Quiet: thousands of requests would drown the run's own lines."""


@contextmanager
def serve(answers: Mapping[str, Answer], port: int = DEFAULT_PORT) -> Iterator[str]:
    """Serve `answers` (path -> answer) on 127.0.0.1; gives the base URL, without a closing slash.

    If the port is taken, any free one is used: the same pictures, but other URLs and so other uids.
    Port 0 asks for a free one. Unknown paths answer 404.
    """
    server = _open(port, answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _open(port: int, answers: Mapping[str, Answer]) -> _Server:
    try:
        return _Server(port, answers)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
    return _Server(0, answers)
