"""The short way into the application, for the two requests that are the hot path.

Flask's routing and request objects cost several times what a prepared answer does. Here a question
goes straight to the service. Whatever is out of the ordinary (another path or method, a body that
is too large or without a length, an unexpected error) is Flask's, whose routes answer the same
questions in the same words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from serving.app import ALWAYS, MAX_BODY_BYTES, refusal
from serving.errors import ServingError
from serving.service import Service

WsgiApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_ANSWER_TYPE = ("Content-Type", "application/json")
_CLOSE = ("Connection", "close")
# Python reads no number of thousands of digits, and takes some that are not ASCII.
_LENGTH = re.compile(r"[0-9]{1,9}")


class Express:
    """A WSGI application in front of Flask's."""

    def __init__(
        self, service: Service, otherwise: WsgiApplication, draining: Callable[[], bool]
    ) -> None:
        self._questions = {
            "/recommend": service.recommend,
            "/recommend-batch": service.recommend_batch,
        }
        self._otherwise = otherwise
        self._draining = draining

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        question = self._questions.get(environ["PATH_INFO"])
        length = environ.get("CONTENT_LENGTH") or ""
        if (
            question is None
            or environ["REQUEST_METHOD"] != "POST"
            or not (_LENGTH.fullmatch(length) and int(length) <= MAX_BODY_BYTES)
        ):
            return self._otherwise(environ, start_response)
        try:
            content = question(
                environ.get("HTTP_AUTHORIZATION"),
                environ.get("CONTENT_TYPE") or "",
                environ["wsgi.input"].read(int(length)),
            )
            status, headers = "200 OK", [_ANSWER_TYPE, *ALWAYS]
        except ServingError as error:
            if error.http_status == 500:
                return self._fail(error, environ, start_response)
            status, headers, content = refusal(error)
            headers += ALWAYS
        except Exception as error:  # Flask logs it and answers for it, in one place.
            return self._fail(error, environ, start_response)
        headers.append(("Content-Length", str(len(content))))
        if self._draining():
            headers.append(_CLOSE)
        start_response(status, headers)
        return [content]

    def _fail(
        self, error: Exception, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        environ["serving.failure"] = error
        return self._otherwise(environ, start_response)
