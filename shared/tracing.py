"""One trace a deployment: from its message through every step to its first answered request.

A deployment keeps the ids of its root span, so whatever is done for it later joins its trace: a
retry, a resumed execution, a call by hand. Cloud Workflows and Cloud Run hand traces of their own
along, sampled as they please: those are linked, never the parent.

OpenTelemetry's own variables configure it: OTEL_TRACES_EXPORTER (`otlp` or `console`; nothing is
recorded without it), OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SDK_DISABLED. No fault of the exporter is
one of the caller's, and none waits for it longer than FLUSHED_WITHIN_S.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared import logs
from shared.domain.deployment import Deployment

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

FLUSHED_WITHIN_S = 1.0
PAUSED_FOR_S = 60.0
_SAMPLED = trace.TraceFlags(trace.TraceFlags.SAMPLED)
_w3c = TraceContextTextMapPropagator()

Attributes = Mapping[str, str | int | float | bool]


def begin(seed: str, publisher: str = "") -> str:
    """Return the traceparent of a deployment's root span, in the publisher's trace if it has one.

    The ids come from `seed`, the message's id: a redelivery finds the same trace.
    """
    digest = sha256(seed.encode()).hexdigest()
    theirs = _parsed(publisher)
    trace_id = trace.format_trace_id(theirs.trace_id) if theirs.is_valid else digest[:32]
    return f"00-{trace_id}-{digest[32:48]}-01"


def trace_id(traceparent: str) -> str:
    """Return the trace's id, 32 hex digits, or "" where there is none."""
    found = _parsed(traceparent)
    return trace.format_trace_id(found.trace_id) if found.is_valid else ""


def checked(traceparent: str) -> str:
    """Return a traceparent that came from outside, or "" where it is none."""
    return traceparent if _parsed(traceparent).is_valid else ""


@contextmanager
def span(
    name: str, parent: str = "", linked: str = "", attributes: Attributes | None = None
) -> Iterator[trace.Span]:
    """Make a span the current one: a child of `parent` (a traceparent), a root without one.

    `linked` is the traceparent that the platform sent. Without an exporter nothing is recorded,
    and log lines carry the parent's ids all the same.
    """
    provider = _recorder.provider()
    if provider is None:
        with carried(parent or linked) as current:
            yield current
        return
    other = _parsed(linked)
    with provider.get_tracer("turnout").start_as_current_span(
        name,
        context=_child_of(parent),
        kind=trace.SpanKind.SERVER,
        attributes=attributes,
        links=[trace.Link(other)] if other.is_valid else (),
    ) as current:
        yield current


@contextmanager
def carried(traceparent: str) -> Iterator[trace.Span]:
    """Let log lines name the trace that a traceparent says; record nothing."""
    with trace.use_span(trace.NonRecordingSpan(_parsed(traceparent))) as current:
        yield current


def link(traceparent: str) -> None:
    """Link the current span to another trace's."""
    other = _parsed(traceparent)
    if other.is_valid:
        trace.get_current_span().add_link(other)


def record(
    traceparent: str,
    parent: str,
    name: str,
    began: datetime,
    ended: datetime,
    attributes: Attributes,
    failure: str = "",
) -> None:
    """Record the span that `begin` named, which lasted longer than any one process.

    A repeat records the same ids and times again, so it changes nothing that is shown.
    """
    provider, mine = _recorder.provider(), _parsed(traceparent)
    if provider is None or not mine.is_valid:
        return
    from shared.exporting import given

    token = given.set((mine.trace_id, mine.span_id))
    try:
        made = provider.get_tracer("turnout").start_span(
            name,
            _child_of(parent),
            kind=trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=_nanoseconds(began),
        )
    finally:
        given.reset(token)
    if failure:
        made.set_status(trace.Status(trace.StatusCode.ERROR, failure))
    made.end(_nanoseconds(ended))


def about(deployment: Deployment) -> dict[str, str | int]:
    """Return the attributes that say whose span it is."""
    return {
        "turnout.deployment_id": deployment.id,
        "turnout.model_id": deployment.model_id,
        "turnout.version": deployment.name,
        "turnout.attempt": deployment.attempt,
    }


def current() -> str:
    """Return the traceparent of the current span, or "" where nothing is recorded."""
    return outgoing().get("traceparent", "")


def outgoing() -> dict[str, str]:
    """Return the headers that carry the current span on to another process."""
    headers: dict[str, str] = {}
    if trace.get_current_span().is_recording():
        _w3c.inject(headers)
    return headers


def flush() -> None:
    """Send what was recorded before the answer: afterwards Cloud Run leaves no CPU for it.

    Waits for a second at most. An exporter that takes longer goes on by itself, and nobody waits
    for it for the next minute.
    """
    _recorder.flush()


def start() -> None:
    """Begin to record, where the environment asks for it: before any client makes its channel."""
    _recorder.provider()


def install(provider: TracerProvider | None) -> None:
    """Record with this provider from now on, whatever the environment says; None: not at all."""
    _recorder.install(provider)


class _Recorder:
    """The process's provider, made at the first span, and the patience with its exporter."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made = False
        self._provider: TracerProvider | None = None
        self._not_before = 0.0

    def provider(self) -> TracerProvider | None:
        with self._lock:
            if not self._made:
                self._provider, self._made = _from_environment(), True
            return self._provider

    def install(self, provider: TracerProvider | None) -> None:
        with self._lock:
            self._provider, self._made, self._not_before = provider, True, 0.0

    def flush(self) -> None:
        provider = self._provider
        if provider is None or time.monotonic() < self._not_before:
            return
        # The SDK's own limit on a flush is not kept: it waits for the exporter's retries.
        sending = threading.Thread(target=provider.force_flush, name="send-traces", daemon=True)
        sending.start()
        sending.join(FLUSHED_WITHIN_S)
        if sending.is_alive():
            self._not_before = time.monotonic() + PAUSED_FOR_S
            logs.log("traces wait", severity="WARNING", paused_s=PAUSED_FOR_S)


def _from_environment() -> TracerProvider | None:
    """Make the provider that the environment asks for; None where nothing is to be recorded."""
    kind = os.environ.get("OTEL_TRACES_EXPORTER", "none")
    if kind == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        # Imported here: only who records pays for OpenTelemetry's SDK at its start.
        from shared.exporting import exporter_of, provider_of, trace_calls

        made = provider_of(exporter_of(kind))
        trace_calls(made)
        return made
    except Exception as error:  # whatever is wrong with tracing is wrong with nothing else
        logs.log_exception("traces are not recorded", error)
        return None


def _parsed(traceparent: str) -> trace.SpanContext:
    """Return the ids in a traceparent, as sampled: deployments are few, each is recorded."""
    carried = _w3c.extract({"traceparent": traceparent}, Context())
    found = trace.get_current_span(carried).get_span_context()
    return trace.SpanContext(found.trace_id, found.span_id, is_remote=True, trace_flags=_SAMPLED)


def _child_of(parent: str) -> Context:
    found = _parsed(parent)
    if not found.is_valid:
        return Context()
    return trace.set_span_in_context(trace.NonRecordingSpan(found), Context())


def _nanoseconds(at: datetime) -> int:
    return round(at.timestamp() * 1e6) * 1000


_recorder = _Recorder()
