"""Cloud Trace: takes spans over OTLP, keeps them on disk, and gives a trace back by its id.

Spans arrive as OpenTelemetry's exporters send them (POST /v1/traces, protobuf). GET
/traces/TRACE_ID answers them as a JSON list, by their begin; times are nanoseconds since 1970.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiohttp import web
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from localcloud.database import Database

_BODY_BYTES = 16 * 2**20
_PROTOBUF = "application/x-protobuf"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS spans (
    trace_id TEXT NOT NULL, span_id TEXT NOT NULL, began INTEGER NOT NULL, span TEXT NOT NULL,
    PRIMARY KEY (trace_id, span_id)
) WITHOUT ROWID;
"""


class Traces:
    """The spans of one project, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._database = Database(folder / "traces.sqlite", _SCHEMA)

    def app(self) -> web.Application:
        """Return the HTTP application."""
        app = web.Application(client_max_size=_BODY_BYTES)
        app.router.add_post("/v1/traces", self._take)
        app.router.add_get("/traces/{trace_id}", self._give)
        return app

    def stop(self) -> None:
        """Close the file."""
        self._database.close()

    async def _take(self, request: web.Request) -> web.Response:
        if request.content_type != _PROTOBUF:
            raise web.HTTPUnsupportedMediaType(text=f"send {_PROTOBUF}")
        body = await request.read()
        try:
            sent = ExportTraceServiceRequest.FromString(body)
        except DecodeError as error:
            raise web.HTTPBadRequest(text=f"not an ExportTraceServiceRequest: {error}") from None
        await asyncio.to_thread(self._keep, sent)
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type=_PROTOBUF)

    async def _give(self, request: web.Request) -> web.Response:
        return web.json_response(
            await asyncio.to_thread(self._spans, request.match_info["trace_id"])
        )

    def _keep(self, sent: ExportTraceServiceRequest) -> None:
        with self._database.transaction() as rows:
            for resource in sent.resource_spans:
                service = _values(resource.resource.attributes).get("service.name", "")
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        kept = _readable(span, service)
                        # An exporter that got no answer sends again: the same span, once.
                        rows.execute(
                            "INSERT OR REPLACE INTO spans VALUES (?, ?, ?, ?)",
                            (kept["trace_id"], kept["span_id"], kept["began"], json.dumps(kept)),
                        )

    def _spans(self, trace_id: str) -> list[dict[str, Any]]:
        sql = "SELECT span FROM spans WHERE trace_id = ? ORDER BY began, span_id"
        return [json.loads(row["span"]) for row in self._database.rows(sql, trace_id)]


def _readable(span: Any, service: str) -> dict[str, Any]:
    failed = span.status.code == Status.STATUS_CODE_ERROR
    return {
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_id": span.parent_span_id.hex(),
        "name": span.name,
        "service": service,
        "began": span.start_time_unix_nano,
        "ended": span.end_time_unix_nano,
        "failure": (span.status.message or "failed") if failed else "",
        "attributes": _values(span.attributes),
        "links": [link.trace_id.hex() for link in span.links],
    }


def _values(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    found = {}
    for one in attributes:
        kind = one.value.WhichOneof("value")
        found[one.key] = getattr(one.value, kind) if kind in _PLAIN else str(one.value)
    return found


_PLAIN = ("string_value", "bool_value", "int_value", "double_value")
