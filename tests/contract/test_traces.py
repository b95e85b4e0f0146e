"""What the local cloud keeps of traces is what OpenTelemetry's own exporter sent."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from aiohttp import web
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

from localcloud.ports import Ports
from localcloud.traces import Traces
from shared import tracing
from shared.errors import NotFound
from shared.exporting import provider_of
from turnout.traces import arrange, draw, fetch

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = tracing.begin("message-1")
TRACE = tracing.trace_id(ROOT)


@pytest.fixture
def collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the URL of the local cloud's, which everything in this process sends to."""
    traces, loop = Traces(tmp_path), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    socket = Ports(tmp_path).bind("traces")

    async def serve() -> web.AppRunner:
        runner = web.AppRunner(traces.app(), access_log=None)
        await runner.setup()
        await web.SockSite(runner, socket).start()
        return runner

    runner = asyncio.run_coroutine_threadsafe(serve(), loop).result(30)
    url = f"http://127.0.0.1:{socket.getsockname()[1]}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    tracing.install(provider_of(OTLPSpanExporter()))
    yield url
    tracing.install(None)
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    traces.stop()


@pytest.mark.usefixtures("collector")
def test_kept_spans_are_those_that_were_sent_and_a_repeat_is_one() -> None:
    with tracing.span("copy_artifacts", ROOT, attributes={"turnout.version": "v2", "tries": 3}):
        pass
    for _ in range(2):
        ended = BEGAN + timedelta(minutes=5)
        tracing.record(ROOT, "", "deploy movies v2", BEGAN, ended, {"healthy": True}, "no memory")
    tracing.flush()
    root, copied = fetch(TRACE)
    assert (root.name, root.lasted_s, root.failure) == ("deploy movies v2", 300, "no memory")
    assert root.attributes == {"healthy": True}
    assert (copied.name, copied.parent) == ("copy_artifacts", root.id)
    assert copied.attributes == {"turnout.version": "v2", "tries": 3}


@pytest.mark.usefixtures("collector")
def test_trace_of_which_nothing_came_is_not_found() -> None:
    with pytest.raises(NotFound):
        fetch("f" * 32)


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [(b"\xff\xff", "application/x-protobuf", 400), (b"{}", "application/json", 415)],
    ids=["not protobuf", "JSON"],
)
def test_what_is_no_export_is_refused(
    collector: str, body: bytes, content_type: str, status: int
) -> None:
    headers = {"Content-Type": content_type}
    answer = requests.post(f"{collector}/v1/traces", body, headers=headers, timeout=30)
    assert answer.status_code == status


@pytest.mark.usefixtures("collector")
def test_container_sends_its_start_and_first_request_as_children() -> None:
    now = 1_780_000_000_000_000_000
    told = {
        "traceparent": ROOT,
        "attributes": {"turnout.version": "v2"},
        "spans": [
            {"name": "start movies v2", "began": now, "ended": now + 4_000_000_000},
            {
                "name": "first request /recommend",
                "began": now + 5_000_000_000,
                "ended": now + 5_002_000_000,
            },
        ],
    }
    subprocess.run(
        [sys.executable, "-m", "serving.traces", json.dumps(told)],
        env={**os.environ, "K_REVISION": "model-serving-movies-v2-1"},
        check=True,
        timeout=60,
    )
    spans = fetch(TRACE)
    assert [span.name for span in spans] == ["start movies v2", "first request /recommend"]
    assert {span.parent for span in spans} == {ROOT.split("-")[2]}
    assert spans[0].lasted_s == pytest.approx(4)
    assert spans[0].attributes["turnout.revision"] == "model-serving-movies-v2-1"


@pytest.mark.usefixtures("collector")
def test_spans_of_one_name_share_a_line_and_any_name_can_be_drawn() -> None:
    for _ in range(3):
        with tracing.span('<script>"&', ROOT), tracing.span("inner", tracing.current()):
            pass
    with tracing.span("last", ROOT):
        pass
    tracing.flush()
    spans = fetch(TRACE)
    assert [(row.depth, row.name, len(row.spans)) for row in arrange(spans)] == [
        (0, '<script>"& (3 times)', 3),
        (1, "inner (3 times)", 3),
        (0, "last", 1),
    ]
    picture = ElementTree.fromstring(draw("a trace", spans))
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count('<script>"& (3 times)') == texts.count("inner (3 times)") == 1
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}rect"))) == len(spans)
