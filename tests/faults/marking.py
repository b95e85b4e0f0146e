"""In the functions' process: each call to Google carries the name of the function that makes it.

A module of its own because `bundle/main.py` is loaded once for every function.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import grpc
import requests
from requests.adapters import HTTPAdapter

from tests.faults.cases import BEGINS, ENDS, MARK

DOORS = json.loads(os.environ["TURNOUT_FAULTS"])

_running: ContextVar[str] = ContextVar("running", default="")
_insecure_channel = grpc.insecure_channel
_control = requests.Session()
_control.trust_env = False


class _Marking(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    """Names the function in the metadata of its gRPC calls."""

    def intercept_unary_unary(self, go_on: Any, details: Any, request: Any) -> Any:
        """Pass the call on, marked."""
        return go_on(_marked(details), request)

    def intercept_unary_stream(self, go_on: Any, details: Any, request: Any) -> Any:
        """Pass the call on, marked."""
        return go_on(_marked(details), request)


def lead_to_the_doors() -> None:
    """Let Google's clients that are made from now on use the doors, and mark their calls."""
    os.environ.update(DOORS["environment"])
    grpc.insecure_channel = _marking_channel
    HTTPAdapter.add_headers = _mark_request  # type: ignore[method-assign]


def watched(name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the function; the cloud is told when it begins and when its answer is ready."""

    @functools.wraps(function)
    def told(given: Any) -> Any:
        token = _running.set(name)
        _say(name, BEGINS)
        try:
            return function(given)
        finally:
            _say(name, ENDS)
            _running.reset(token)

    return told


def _marked(details: Any) -> Any:
    return details._replace(metadata=[*(details.metadata or ()), (MARK, _running.get())])


def _marking_channel(target: str, options: Any = None, compression: Any = None) -> grpc.Channel:
    return grpc.intercept_channel(_insecure_channel(target, options, compression), _Marking())


def _mark_request(_: HTTPAdapter, request: requests.PreparedRequest, **__: Any) -> None:
    request.headers[MARK] = _running.get()


def _say(function: str, moment: str) -> None:
    _control.post(f"{DOORS['control']}/functions/{function}", data=moment, timeout=60)
