"""What the server itself can do: a constant answer of an ordinary one's size, and no model.

`python -m benchmarks.peers.empty flask` answers through Flask, `... bare` through a WSGI function.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import flask

from serving.cpus import cpus_given
from serving.server import new_server

PRODUCTS, CUSTOMERS = 10, 1_000
_RESULT = {
    "customer_id": "C000000",
    "recommendations": [
        {"product_id": f"P{number:06}", "score": 30.123456} for number in range(PRODUCTS)
    ],
}


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


ONE = _compact({**_RESULT, "model_version": "v1"})
MANY = _compact({"results": [_RESULT] * CUSTOMERS, "model_version": "v1"})


def flask_app() -> flask.Flask:
    """Return an application that only routes."""
    app = flask.Flask("empty", static_folder=None)

    @app.post("/recommend")
    def recommend() -> flask.Response:
        return flask.Response(ONE, mimetype="application/json")

    @app.post("/recommend-batch")
    def recommend_batch() -> flask.Response:
        return flask.Response(MANY, mimetype="application/json")

    return app


def bare_app() -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    """Return an application that does not even do that."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = MANY if environ["PATH_INFO"].endswith("batch") else ONE
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response("200 OK", headers)
        return [body]

    return answer


def main(kind: str) -> None:
    """Serve with the settings that the serving container gives the same server."""
    server = new_server("empty", "127.0.0.1", int(os.environ["PORT"]), cpus_given())
    build = {"flask": flask_app, "bare": bare_app}[kind]
    server.serve(target_loader=lambda *_: build(), wrap_loader=False)


if __name__ == "__main__":
    main(sys.argv[1])
