"""All functions of a source folder as one WSGI application: `/NAME/rest` goes to NAME."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

import flask
import functions_framework

from localcloud.calls import Calls
from localcloud.functions.invoker import Invoker, Refusal, account_of
from localcloud.functions.stamps import at_work

#: The endpoint that functions-framework mounts for a function of each kind.
_ENDPOINTS = {"http": "run", "cloudevent": "cloudevent"}
#: How a call of a function is counted: it is Cloud Run that lets the caller in.
INVOKE = "run.routes.invoke"


class Dispatcher:
    """Finds the function, checks the caller, and calls it as if it were alone at its URL."""

    def __init__(
        self, functions: Mapping[str, flask.Flask], invoker: Invoker, calls: Calls
    ) -> None:
        self._functions = functions
        self._invoker = invoker
        self._calls = calls

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (WSGI)."""
        name, _, rest = environ.get("PATH_INFO", "").lstrip("/").partition("/")
        function = self._functions.get(name)
        if function is None:
            return _problem(start_response, HTTPStatus.NOT_FOUND, f"no function {name!r} here")
        admitted = self._invoker.admit(name, environ.get("HTTP_AUTHORIZATION"))
        if isinstance(admitted, Refusal):
            return _problem(start_response, admitted.status, admitted.detail)
        if admitted is not None:
            environ["HTTP_AUTHORIZATION"] = admitted
        if name not in self._invoker.public:
            self._calls.note(account_of(admitted or ""), INVOKE, name)
        # The thread serves this request until its answer has been sent, then another one.
        at_work.set(name)
        environ["SCRIPT_NAME"] = f"{environ.get('SCRIPT_NAME', '')}/{name}"
        environ["PATH_INFO"] = f"/{rest}"
        return function(environ, start_response)


def load(source: Path, targets: Mapping[str, str]) -> dict[str, flask.Flask]:
    """Load every entry point of `source/main.py`; ValueError when one is not what is declared."""
    functions = {}
    for name, kind in targets.items():
        app = functions_framework.create_app(name, str(source / "main.py"), kind)
        if not isinstance(app, flask.Flask) or _ENDPOINTS[kind] not in app.view_functions:
            raise ValueError(
                f"{name} is declared as {kind!r}, but {source / 'main.py'} decorates it otherwise"
            )
        functions[name] = app
    return functions


def _problem(start_response: StartResponse, status: HTTPStatus, detail: str) -> Iterable[bytes]:
    body = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "code": status.name.lower(),
        "detail": detail,
    }
    content = json.dumps(body).encode()
    headers = [
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(content))),
    ]
    if status is HTTPStatus.UNAUTHORIZED:
        headers.append(("WWW-Authenticate", 'Bearer error="invalid_token"'))
    start_response(f"{status.value} {status.phrase}", headers)
    return [content]
