"""`python -m serving.traces JSON`: sends spans of an instance to the trace of its deployment.

JSON: {"traceparent", "attributes", "spans": [{"name", "began", "ended"}]}; times are nanoseconds
since 1970. A process of its own, started once in an instance's life, so that neither the memory
nor the import of OpenTelemetry's SDK burdens what answers requests.
"""

from __future__ import annotations

import json
import os
import sys

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

GOOGLE = "https://telemetry.googleapis.com"


def main() -> None:
    """Send what the argument says; where it goes, OpenTelemetry's own variables say."""
    told = json.loads(sys.argv[1])
    resource = {
        "service.name": os.environ.get("K_SERVICE", "serving"),
        "gcp.project_id": os.environ.get("TURNOUT_PROJECT")
        or os.environ.get("GOOGLE_CLOUD_PROJECT", ""),
    }
    provider = TracerProvider(resource=Resource.create(resource))
    provider.add_span_processor(BatchSpanProcessor(_exporter()))
    parent = TraceContextTextMapPropagator().extract({"traceparent": told["traceparent"]})
    about = {**told["attributes"], "turnout.revision": os.environ.get("K_REVISION", "")}
    for span in told["spans"]:
        made = provider.get_tracer("serving").start_span(
            span["name"],
            parent,
            kind=trace.SpanKind.SERVER,
            attributes=about,
            start_time=span["began"],
        )
        made.end(span["ended"])
    provider.shutdown()


def _exporter() -> OTLPSpanExporter:
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").startswith(GOOGLE):
        return OTLPSpanExporter()
    import google.auth
    from google.auth.transport.requests import AuthorizedSession

    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    return OTLPSpanExporter(session=AuthorizedSession(credentials))


if __name__ == "__main__":
    # Requests go first.
    os.nice(19)
    main()
