"""What records spans and sends them: OpenTelemetry's SDK, which only who records imports."""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import GrpcInstrumentorClient
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
)

from shared import logs

GOOGLE = "https://telemetry.googleapis.com"
given: ContextVar[tuple[int, int] | None] = ContextVar("given", default=None)
"""Trace id and span id of the next span, where they were given out before it began."""


class Ids(RandomIdGenerator):
    """Random ids, but for the span whose ids were given out."""

    def generate_trace_id(self) -> int:
        """Return the next trace's id."""
        ids = given.get()
        return ids[0] if ids else super().generate_trace_id()

    def generate_span_id(self) -> int:
        """Return the next span's id."""
        ids = given.get()
        return ids[1] if ids else super().generate_span_id()


class Roots(Sampler):
    """Begins no trace for a call that a library makes on its own, in a thread of its own."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: trace.SpanKind | None = None,
        *rest: Any,
        **named: Any,
    ) -> SamplingResult:
        """Say whether a span without a parent is recorded."""
        decided = ALWAYS_ON if kind is trace.SpanKind.SERVER else ALWAYS_OFF
        return decided.should_sample(parent_context, trace_id, name, kind, *rest, **named)

    def get_description(self) -> str:
        """Return its name."""
        return "Roots"


def provider_of(exporter: SpanExporter) -> TracerProvider:
    """Return what makes spans and gives them to `exporter`, in batches."""
    resource = {
        "service.name": os.environ.get("K_SERVICE") or "turnout",
        # Under which project Google's endpoint files them.
        "gcp.project_id": logs.project(),
    }
    made = TracerProvider(
        sampler=ParentBased(Roots()),
        resource=Resource.create(resource),
        id_generator=Ids(),
        # Every request sends its own: the end of a process must not wait for an exporter.
        shutdown_on_exit=False,
    )
    made.add_span_processor(BatchSpanProcessor(exporter))
    return made


def exporter_of(kind: str) -> SpanExporter:
    """Return the exporter that OTEL_TRACES_EXPORTER names; ValueError for one that is not here."""
    if kind == "console":
        return ConsoleSpanExporter()
    if kind != "otlp":
        raise ValueError(f"OTEL_TRACES_EXPORTER is {kind!r}; it must be otlp, console or none")
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").startswith(GOOGLE):
        return OTLPSpanExporter()
    import google.auth
    from google.auth.transport.requests import AuthorizedSession

    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
    return OTLPSpanExporter(session=session)


def trace_calls(provider: TracerProvider) -> None:
    """Let every gRPC channel that is made from now on record its calls: to all but Storage."""
    trace.set_tracer_provider(provider)  # whom the channels ask
    GrpcInstrumentorClient().instrument()  # type: ignore[no-untyped-call]
