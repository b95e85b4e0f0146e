"""Plain Flask, run by gunicorn with threads: one TensorFlow call a request, Flask's own JSON."""

from __future__ import annotations

import flask
from flask.typing import ResponseReturnValue

from benchmarks.peers.towers import load


def create_app() -> flask.Flask:
    """Return the WSGI application with its model loaded."""
    app = flask.Flask("plain")
    answer = load()

    @app.post("/recommend")
    def recommend() -> ResponseReturnValue:
        asked = flask.request.get_json()
        [result] = answer([asked["customer_id"]], asked.get("top_k", 10))
        return flask.jsonify(result)

    @app.post("/recommend-batch")
    def recommend_batch() -> ResponseReturnValue:
        asked = flask.request.get_json()
        return flask.jsonify({"results": answer(asked["customer_ids"], asked.get("top_k", 10))})

    return app
