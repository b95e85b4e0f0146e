"""In the functions' process: each call to a service of the local cloud says whose it is.

In production every function has its own service account, whose token its calls carry. Here one
process hosts all functions and the emulators' clients send no token, so the host puts the
function's name in that place: into the metadata of a gRPC call, into a header for Cloud Storage.
Google's clients stay as they are, and the functions know nothing of it.
"""

from __future__ import annotations

import os
import threading
from contextvars import ContextVar
from typing import Any

import grpc
from requests import PreparedRequest
from requests.adapters import HTTPAdapter

from localcloud.calls import CALLER, NO_FUNCTION

at_work: ContextVar[str] = ContextVar("at_work", default=NO_FUNCTION)
"""The function that this thread, or the one that started it, runs."""

_insecure_channel = grpc.insecure_channel
_start_thread = threading.Thread.start
_add_headers = HTTPAdapter.add_headers


class _Stamp(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    """Names the function in the metadata of its calls."""

    def intercept_unary_unary(self, go_on: Any, details: Any, request: Any) -> Any:
        """Pass the call on, stamped."""
        return go_on(_stamped(details), request)

    def intercept_unary_stream(self, go_on: Any, details: Any, request: Any) -> Any:
        """Pass the call on, stamped."""
        return go_on(_stamped(details), request)


def stamp_calls() -> None:
    """Stamp what this process calls from now on; call it before the first client is made."""
    grpc.insecure_channel = _stamping_channel
    HTTPAdapter.add_headers = _stamp_request  # type: ignore[method-assign, assignment]
    threading.Thread.start = _start_at_work  # type: ignore[method-assign, assignment]


def _stamped(details: Any) -> Any:
    return details._replace(metadata=[*(details.metadata or ()), (CALLER, at_work.get())])


def _stamping_channel(target: str, options: Any = None, compression: Any = None) -> grpc.Channel:
    return grpc.intercept_channel(_insecure_channel(target, options, compression), _Stamp())


def _stamp_request(adapter: HTTPAdapter, request: PreparedRequest, **arguments: Any) -> None:
    _add_headers(adapter, request, **arguments)
    # Nobody but the local cloud is told: not the models, not a webhook.
    storage = os.environ.get("STORAGE_EMULATOR_HOST")
    if storage and str(request.url).startswith(storage):
        request.headers[CALLER] = at_work.get()


def _start_at_work(thread: threading.Thread) -> None:
    """Start a thread that works for the function that starts it, and inherits nothing else."""
    function, run = at_work.get(), thread.run

    def run_for_function() -> None:
        at_work.set(function)
        run()

    thread.run = run_for_function  # type: ignore[method-assign]
    _start_thread(thread)
