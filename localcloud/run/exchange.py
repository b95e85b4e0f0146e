"""One HTTP request passed to an instance, and its answer passed back as it comes."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from localcloud.ports import HOST
from localcloud.run.process import Process

# An instance may close an idle connection just when the next request is sent on it, which
# then fails. Kept shorter than any server keeps it, that moment does not come.
KEEP_ALIVE_S = 1.0
CALLER_GONE = 499  # The caller closed the connection first; no fault of the revision.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "expect",
    }
)
_SKIP_AUTO = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)


def new_session() -> aiohttp.ClientSession:
    """Return the session that requests are passed to instances with; needs a running loop."""
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_note_sent)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        max_line_size=65_536,
        max_field_size=65_536,
        trace_configs=[trace],
    )


async def _note_sent(
    _session: aiohttp.ClientSession,
    context: Any,
    _params: aiohttp.TraceRequestHeadersSentParams,
) -> None:
    if context.trace_request_ctx is not None:  # None: a startup probe, which has no exchange.
        context.trace_request_ctx.sent = True


class Exchange:
    """One request passed to one instance, and its answer passed back.

    `status` is what the caller was answered, 0 while nothing was; `sent` tells that the
    instance may have seen the request (the client repeats a GET on a second connection by
    itself, so that a refused connection alone does not say that it has not).
    """

    def __init__(
        self, request: web.BaseRequest, process: Process, session: aiohttp.ClientSession
    ) -> None:
        self._request = request
        self._process = process
        self._session = session
        self.status = 0
        self.sent = False
        self.response: web.StreamResponse | None = None

    async def run(self, timeout_s: float) -> None:
        """Answer the request; ClientConnectorError when the instance refused the connection."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._forward()
        except TimeoutError:
            self._fail(
                HTTPStatus.GATEWAY_TIMEOUT,
                "request_timeout",
                f"The request did not end within the revision's timeout of {timeout_s:g} s.",
            )
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, aiohttp.ClientConnectorError) and not self.sent:
                raise
            if self._request.transport is None or self._request.transport.is_closing():
                self.status = CALLER_GONE
                self.response = self.response or web.Response(status=CALLER_GONE)
                return
            self._fail(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "connection_to_instance_failed",
                "The request failed because either the HTTP response was malformed or the "
                f"connection to the instance had an error: {error!r}.",
            )

    async def _forward(self) -> None:
        request = self._request
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            assert request.transport is not None
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async with self._session.request(
            request.method,
            URL(f"http://{HOST}:{self._process.port}{request.raw_path}", encoded=True),
            headers=_request_headers(request),
            data=request.content if request.body_exists else None,
            allow_redirects=False,
            skip_auto_headers=_SKIP_AUTO,
            trace_request_ctx=self,
        ) as answer:
            self.status = answer.status
            self.response = web.StreamResponse(
                status=answer.status, reason=answer.reason, headers=_end_to_end(answer.headers)
            )
            await self.response.prepare(request)
            async for chunk in answer.content.iter_any():
                await self.response.write(chunk)
            await self.response.write_eof()

    def _fail(self, status: HTTPStatus, code: str, detail: str) -> None:
        self.status = status
        if self.response is None or not self.response.prepared:
            self.response = problem(status, code, detail)
        elif self._request.transport is not None:
            # Half an answer is out: only a broken connection tells the caller so.
            self._request.transport.abort()


def _request_headers(request: web.BaseRequest) -> CIMultiDict[str]:
    headers = _end_to_end(request.headers)
    known = request.headers.get(hdrs.X_FORWARDED_FOR)
    caller = request.remote or HOST
    headers[hdrs.X_FORWARDED_FOR] = f"{known}, {caller}" if known else caller
    headers.setdefault(hdrs.X_FORWARDED_PROTO, "http")
    trace, span = secrets.token_hex(16), secrets.randbits(63)
    if "traceparent" in headers:
        pieces = headers["traceparent"].split("-")
        trace = pieces[1] if len(pieces) == 4 else trace
    else:
        headers["traceparent"] = f"00-{trace}-{span:016x}-01"
    headers.setdefault("X-Cloud-Trace-Context", f"{trace}/{span};o=1")
    return headers


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Return the headers without those that concern one connection only (RFC 9110, 7.6.1)."""
    named = {n.strip().lower() for n in headers.get(hdrs.CONNECTION, "").split(",")}
    dropped = _HOP_BY_HOP | named
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        if name.lower() not in dropped:
            kept.add(name, value)
    return kept


def problem(status: HTTPStatus, code: str, detail: str) -> web.Response:
    """Return an answer of the front door's own, in the form of RFC 9457."""
    body = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "code": code,
        "detail": detail,
    }
    return web.Response(
        status=status, text=json.dumps(body), content_type="application/problem+json"
    )
