"""Module http: the requests a workflow makes."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Mapping
from email.message import Message

import requests
import urllib3.exceptions

from localcloud.workflows import limits
from localcloud.workflows.errors import WorkflowError, failure
from localcloud.workflows.library.helpers import string
from localcloud.workflows.library.registry import Host, expect, function
from localcloud.workflows.values import Value, from_json, to_json, type_name

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
AUTH_ATTRIBUTES = ("type", "audience", "scope", "scopes")
AUTH_TYPES = ("OIDC", "OAuth2")
DEFAULT_TIMEOUT_S = 300
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_AGENT = "GoogleCloudWorkflows; (+https://cloud.google.com/workflows/docs)"
_CHUNK_BYTES = 64 * 1024


@function("http.request", blocking=True)
def request(
    host: Host,
    method: Value,
    url: Value,
    timeout: Value = DEFAULT_TIMEOUT_S,
    body: Value = None,
    headers: Value = None,
    query: Value = None,
    auth: Value = None,
) -> Value:
    """Send a request and return `{body, code, headers}`.

    Raises HttpError from status 400 on, ConnectionFailedError, ConnectionError,
    TimeoutError (real seconds, at most 1800, for the whole exchange), ResourceLimitError
    for a response over 2 MB, AuthError, TypeError and ValueError.
    """
    if expect(method, "method", "string") not in METHODS:
        raise failure("ValueError", f"method {method!r} is not one of {', '.join(METHODS)}")
    address = expect(url, "url", "string")
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise failure("ValueError", f"url {address!r} is neither http:// nor https://")
    seconds = expect(timeout, "timeout", "integer", "double")
    if not 0 < seconds <= limits.HTTP_TIMEOUT_S:
        raise failure("ValueError", f"timeout {seconds} s is not within 0 to 1800 s")
    sent = _headers(headers)
    content = _content(body, sent)
    if auth is not None:
        sent["Authorization"] = f"Bearer {_token(host, auth, address)}"
    return _exchange(method, _with_query(address, query), sent, content, float(seconds))


def _shortcut(method: str) -> None:
    def send(
        host: Host,
        url: Value,
        timeout: Value = DEFAULT_TIMEOUT_S,
        body: Value = None,
        headers: Value = None,
        query: Value = None,
        auth: Value = None,
    ) -> Value:
        return request(host, method, url, timeout, body, headers, query, auth)

    function(f"http.{method.lower()}", blocking=True)(send)


for _method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
    _shortcut(_method)


def _headers(headers: Value) -> dict[str, str]:
    given = expect(headers, "headers", "map", "null") or {}
    names = {name.lower(): name for name in given}
    sent = {
        _canonical(name): string(expect(given[name], f"headers.{name}", "string", "integer"))
        for name in names.values()
    }
    sent["User-Agent"] = f"{sent['User-Agent']} {_AGENT}" if "User-Agent" in sent else _AGENT
    return sent


def _content(body: Value, headers: dict[str, str]) -> bytes | None:
    """Return the body as it is sent, and add the content type it has by default."""
    if body is None:
        return None
    if "Content-Type" not in headers:
        is_bytes = isinstance(body, bytes)
        headers["Content-Type"] = (
            "application/octet-stream" if is_bytes else "application/json; charset=utf-8"
        )
    media_type = _media_type(headers["Content-Type"])
    if isinstance(body, bytes):
        return body
    if media_type == "application/json":
        return to_json(body).encode()
    if media_type == "application/x-www-form-urlencoded" and isinstance(body, dict):
        return urllib.parse.urlencode(_pairs(body, "body")).encode()
    if isinstance(body, str):
        return body.encode()
    raise failure("TypeError", f"body is {type_name(body)}, which cannot be sent as {media_type}")


def _with_query(url: str, query: Value) -> str:
    if not expect(query, "query", "map", "null"):
        return url
    encoded = urllib.parse.urlencode(_pairs(query, "query"))
    parts = urllib.parse.urlsplit(url)
    joined = f"{parts.query}&{encoded}" if parts.query else encoded
    return urllib.parse.urlunsplit(parts._replace(query=joined))


def _pairs(fields: Mapping[str, Value], name: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            expect(item, f"{name}.{key}", "string", "integer", "double", "boolean")
            pairs.append((key, string(item)))
    return pairs


def _token(host: Host, auth: Value, url: str) -> str:
    unknown = set(expect(auth, "auth", "map")) - set(AUTH_ATTRIBUTES)
    if unknown:
        raise failure("ValueError", f"auth has no attribute {min(unknown)!r}")
    kind = auth.get("type")
    if kind == "OIDC":
        return host.token(expect(auth.get("audience", url), "auth.audience", "string"))
    if kind == "OAuth2":
        # An access token is opaque to who receives it; here it is a signed token whose
        # audience is the scopes, so that a local service can check whose it is.
        scopes = auth.get("scopes", auth.get("scope", _SCOPE))
        listed = scopes if isinstance(scopes, list) else [scopes]
        return host.token(" ".join(expect(scope, "auth.scopes", "string") for scope in listed))
    raise failure("ValueError", f"auth.type {kind!r} is not one of {', '.join(AUTH_TYPES)}")


def _exchange(
    method: str, url: str, headers: dict[str, str], content: bytes | None, timeout_s: float
) -> Value:
    deadline = time.monotonic() + timeout_s
    try:
        with requests.Session() as session:
            session.trust_env = False
            response = session.request(
                method, url, headers=headers, data=content, timeout=timeout_s, stream=True
            )
            received = _received(response, deadline, url, timeout_s)
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        raise _timed_out(url, timeout_s) from None
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader) as wrong:
        raise failure("ValueError", str(wrong)) from None
    except requests.TooManyRedirects as wrong:
        raise failure("ConnectionError", str(wrong)) from None
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as wrong:
        tag = "ConnectionFailedError" if _never_connected(wrong) else "ConnectionError"
        raise failure(tag, f"{method} {url}: {wrong}") from None
    except urllib3.exceptions.HTTPError as wrong:
        raise failure("ConnectionError", f"{method} {url}: {wrong}") from None
    answer = {
        "code": response.status_code,
        "headers": {_canonical(name): value for name, value in response.headers.items()},
        "body": _decoded(received, response.headers.get("Content-Type", "")),
    }
    if response.status_code >= 400:
        message = f"HTTP server responded with error code {response.status_code}"
        raise failure("HttpError", message, **answer)
    return answer


def _received(response: requests.Response, deadline: float, url: str, timeout_s: float) -> bytes:
    received = bytearray()
    # read1 gives what has arrived, so that a server that drips cannot outlast the deadline.
    while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
        received += chunk
        if len(received) > limits.RESPONSE_BYTES:
            raise failure(
                "ResourceLimitError", f"the response of {url} is over {limits.RESPONSE_BYTES} bytes"
            )
        if time.monotonic() > deadline:
            raise _timed_out(url, timeout_s)
    return bytes(received)


def _decoded(content: bytes, content_type: str) -> Value:
    """Return JSON as its value, other text as a string, the rest as bytes.

    Only application/json itself is decoded; the documented way for other media types
    is `json.decode(text.encode(response.body))`.
    """
    if _media_type(content_type) == "application/json":
        if not content:
            return None
        try:
            return from_json(content)
        except ValueError as wrong:
            raise failure(
                "ValueError", f"the response is not the JSON it claims: {wrong}"
            ) from None
    if _media_type(content_type) == "application/octet-stream":
        return content
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def _never_connected(wrong: Exception) -> bool:
    reason = getattr(wrong.args[0], "reason", None) if wrong.args else None
    return isinstance(reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.SSLError)


def _timed_out(url: str, timeout_s: float) -> WorkflowError:
    return failure("TimeoutError", f"no complete response of {url} within {timeout_s:g} s")


def _canonical(name: str) -> str:
    """Return a header's name the way the service shows it: Content-Type, X-Request-Id."""
    return "-".join(part.capitalize() for part in name.split("-"))


def _media_type(content_type: str) -> str:
    header = Message()
    header["Content-Type"] = content_type
    return header.get_content_type() if content_type else ""
