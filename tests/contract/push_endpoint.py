"""A real HTTP endpoint that records what is pushed to it and answers as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from localcloud.ports import HOST

Answer = Callable[[dict[str, Any]], int]


@dataclass
class Endpoint:
    """Every request's headers and JSON body, in the order in which they came."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def wait_for(self, count: int, timeout_s: float = 20) -> list[dict[str, Any]]:
        """Return the bodies once there are at least `count`."""
        deadline = time.monotonic() + timeout_s
        while len(self.bodies) < count:
            assert time.monotonic() < deadline, f"{len(self.bodies)} of {count} pushes came"
            time.sleep(0.01)
        return self.bodies


@contextmanager
def push_endpoint(answer: Answer = lambda _body: 204) -> Iterator[Endpoint]:
    """Listen on a free loopback port; `answer` gives the HTTP status for a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            endpoint.headers.append(dict(self.headers))
            endpoint.bodies.append(body)
            self.send_response(answer(body))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer((HOST, 0), Handler)
    server.daemon_threads = True
    endpoint = Endpoint(f"http://{HOST}:{server.server_port}/push")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
