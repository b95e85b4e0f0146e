"""One trace a deployment, whatever happens to it, and no fault of tracing is anybody's."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import flask
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from pydantic import TypeAdapter

from functions.abort_deployment import undo
from functions.announce import announce
from functions.cancel import stop
from functions.entry import handle
from functions.on_training_completed import deliver
from functions.roll_back import go_back
from shared import logs, tracing
from shared.config import TELEMETRY, Settings
from shared.domain.deployment import Deployment
from shared.errors import Conflict, RevisionNotReady
from shared.exporting import provider_of
from shared.gcp.cloud_run import RunServices
from shared.messages import AbortDeployment, Cancel, CopyArtifacts, Reconcile, RollBack
from tests.fakes import World
from tests.unit.stepping import (
    MODEL,
    SERVICE,
    STEPS,
    deployment,
    execution_of,
    message,
    new_world,
    roll_out,
    train,
)

PLATFORM = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-00"
PUBLISHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
ORDER = ["claim", "copy", "prepare", "create", "check", "shift", "finish"]
Seen = Callable[[], list[ReadableSpan]]


def install(exporter: SpanExporter) -> None:
    tracing.install(provider_of(exporter))


@pytest.fixture
def seen() -> Iterator[Seen]:
    """Everything that was sent so far."""
    exporter = InMemorySpanExporter()
    install(exporter)
    yield lambda: list(exporter.get_finished_spans())
    tracing.install(None)


@pytest.fixture
def untraced() -> None:
    tracing.install(None)


def receive(
    world: World, run: int = 1, message_id: str = "m-1", traceparent: str = "", **deploy: Any
) -> str:
    train(world, run)
    content = base64.b64encode(message(run, deploy or None)).decode()
    sent: dict[str, Any] = {"data": content, "messageId": message_id}
    if traceparent:
        sent["attributes"] = {"traceparent": traceparent}
    return deliver(sent, world.ports(), lambda: announced(world))


def announced(world: World) -> None:
    if world.state.take_news():
        announce(world.ports())


def ask(
    world: World, kind: Any, use_case: Callable[[Any], dict[str, Any]], body: Mapping[str, Any]
) -> flask.Response:
    """Call a function as Cloud Run would: with a trace of the platform's own, not sampled."""
    app = flask.Flask(__name__)
    with app.test_request_context(json=dict(body), headers={"traceparent": PLATFORM}):
        return handle(kind, flask.request, use_case, world.state, lambda: announced(world))


def step(world: World, name: str, deployment_id: str) -> flask.Response:
    use_case, kind = STEPS[name]
    body: dict[str, Any] = {
        "deployment_id": deployment_id,
        "execution": execution_of(world, deployment_id),
    }
    if name == "shift":
        body["percent"] = 100
    return ask(world, kind, lambda command: use_case(command, world.ports()), body)


def rolled_out(world: World, run: int = 1, **sent: Any) -> str:
    receive(world, run, **sent)
    deployment_id = f"{MODEL}-{run}-auto"
    for name in ORDER:
        assert step(world, name, deployment_id).status_code == 200
    return deployment_id


def trace_ids(spans: Sequence[ReadableSpan]) -> set[str]:
    return {f"{span.context.trace_id:032x}" for span in spans}


def root_of(spans: Sequence[ReadableSpan]) -> ReadableSpan:
    """The one span at the top of a tree that holds them all."""
    by_id = {span.context.span_id: span for span in spans}
    assert len(by_id) == len(spans)
    tops = [span for span in spans if span.parent is None or span.parent.span_id not in by_id]
    assert len(tops) == 1, [span.name for span in tops]
    assert len(trace_ids(spans)) == 1
    return tops[0]


def names(spans: Sequence[ReadableSpan]) -> list[str]:
    return [span.name for span in sorted(spans, key=lambda span: span.start_time or 0)]


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_whole_pipeline_with_retries_is_one_tree(seen: Seen) -> None:
    world = new_world()
    receive(world)
    for name in [*ORDER[:3], "copy", "copy", *ORDER[3:], "finish"]:
        step(world, name, "movies-1-auto")
    spans = seen()
    root = root_of(spans)
    assert root.name == "deploy movies v1"
    assert root.status.is_ok or root.status.is_unset
    below = [span for span in spans if span is not root]
    assert {span.parent and span.parent.span_id for span in below} == {root.context.span_id}
    assert names(below) == [
        "on_training_completed",
        "claim_deployment",
        "copy_artifacts",
        "prepare_model",
        "copy_artifacts",
        "copy_artifacts",
        "create_revision",
        "check_health",
        "shift_traffic",
        "finish_deployment",
        "finish_deployment",
    ]


def test_span_of_a_step_says_whose_it_is_and_how_it_went(seen: Seen) -> None:
    rolled_out(new_world())
    [copied] = [span for span in seen() if span.name == "copy_artifacts"]
    assert dict(copied.attributes or {}) == {
        "turnout.step": "copy_artifacts",
        "turnout.deployment_id": "movies-1-auto",
        "turnout.model_id": "movies",
        "turnout.version": "v1",
        "turnout.attempt": 0,
        "http.response.status_code": 200,
    }
    [platform] = copied.links
    assert f"{platform.context.trace_id:032x}" == "a" * 32


def test_two_deployments_have_a_trace_each(seen: Seen) -> None:
    world = new_world()
    rolled_out(world, 1, message_id="m-1")
    rolled_out(world, 2, message_id="m-2")
    assert len(trace_ids(seen())) == 2


def test_publishers_trace_goes_on_whatever_it_sampled(seen: Seen) -> None:
    rolled_out(new_world(), traceparent=PUBLISHER)
    root = root_of(seen())
    assert trace_ids([root]) == {"0af7651916cd43dd8448eb211c80319c"}
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == "b7ad6b7169203331"


@pytest.mark.parametrize("traceparent", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_without_a_usable_traceparent_a_trace_begins(seen: Seen, traceparent: str) -> None:
    world = new_world()
    deployment_id = rolled_out(world, traceparent=traceparent)
    root = root_of(seen())
    assert root.parent is None
    assert world.state.deployment(deployment_id).trace_parent == ""


def test_redelivered_message_joins_the_trace(seen: Seen) -> None:
    world = new_world()
    for _ in range(2):
        receive(world)
    for name in ORDER:
        step(world, name, "movies-1-auto")
    assert receive(world) == "known"
    assert names(seen()).count("on_training_completed") == 3
    root_of(seen())


@pytest.mark.parametrize("outcome", ["started", "known"])
def test_same_request_published_again_has_a_whole_trace_of_its_own(
    seen: Seen, outcome: str
) -> None:
    world = new_world()
    if outcome == "known":
        rolled_out(world, message_id="m-1")
    else:
        receive(world, message_id="m-1")
    before = world.state.deployment("movies-1-auto")
    assert receive(world, message_id="m-2") == outcome
    assert world.state.deployment("movies-1-auto") == before
    first = tracing.trace_id(before.trace)
    others = [span for span in seen() if trace_ids([span]) != {first}]
    assert root_of(others).name == f"message {outcome}"
    [delivery] = [span for span in others if span.name == "on_training_completed"]
    assert [f"{link.context.trace_id:032x}" for link in delivery.links] == [first]


@pytest.mark.parametrize(
    ("body", "outcome"),
    [(message(model_id="unknown"), "refused"), (b"{", "refused")],
    ids=["unknown model", "no JSON"],
)
def test_message_that_begins_no_deployment_has_a_whole_trace(
    seen: Seen, body: bytes, outcome: str
) -> None:
    sent = {"data": base64.b64encode(body).decode(), "messageId": "m-1"}
    assert deliver(sent, new_world().ports(), lambda: None) == outcome
    assert root_of(seen()).name == f"message {outcome}"
    assert len(seen()) == 2


def test_delivery_that_fails_is_sent_too_and_the_next_one_joins(seen: Seen) -> None:
    world = new_world()
    train(world, 1)
    sent = {"data": base64.b64encode(message(1)).decode(), "messageId": "m-1"}

    def down() -> None:
        raise ConnectionError("Firestore is away")

    world.state.before_commit = down
    with pytest.raises(ConnectionError):
        deliver(sent, world.ports(), lambda: None)
    [failed] = seen()
    assert not failed.status.is_ok
    world.state.before_commit = lambda: None
    assert deliver(sent, world.ports(), lambda: None) == "started"
    assert len(trace_ids(seen())) == 1


def test_failed_step_and_deployment_say_why(seen: Seen) -> None:
    world = new_world()
    receive(world)
    step(world, "claim", "movies-1-auto")
    mine = {"deployment_id": "movies-1-auto", "execution": "executions/1"}

    def late(_: CopyArtifacts) -> dict[str, Any]:
        raise RevisionNotReady("model-serving-movies-v1-1", 300)

    assert ask(world, CopyArtifacts, late, mine).status_code == 503
    body = {**mine, "error": {"message": "no memory"}}
    ask(world, AbortDeployment, lambda command: undo(command, world.ports()), body)
    spans = seen()
    [copied] = [span for span in spans if span.name == "copy_artifacts"]
    assert copied.attributes is not None
    assert copied.attributes["http.response.status_code"] == 503
    assert copied.attributes["error.type"] == "revision_not_ready"
    assert copied.status.description == "revision_not_ready"
    root = root_of(spans)
    assert root.status.description == "no memory"
    assert root.attributes is not None
    assert root.attributes["turnout.status"] == "failed"


def test_cancel_joins_the_rollouts_trace_and_ends_it(seen: Seen) -> None:
    world = new_world()
    receive(world)
    step(world, "claim", "movies-1-auto")
    body = {"deployment_id": "movies-1-auto", "reason": "wrong data"}
    ask(world, Cancel, lambda command: stop(command, "ops@example.com", world.ports()), body)
    assert "cancel" in names(seen())
    assert root_of(seen()).status.description == "cancelled by ops@example.com: wrong data"


def test_rollback_has_a_trace_of_its_own_linked_to_where_it_went(seen: Seen) -> None:
    world = new_world()
    for run in (1, 2):
        rolled_out(world, run, message_id=f"m-{run}")
    before = trace_ids(seen())
    body = {"model_id": MODEL, "reason": "bad answers"}
    ask(world, RollBack, lambda command: go_back(command, "ops", world.ports()), body)
    [back] = [span for span in seen() if span.name == "roll_back"]
    assert back.parent is None
    assert not trace_ids([back]) & before
    target = tracing.trace_id(world.state.deployment("movies-1-auto").trace)
    assert target in {f"{link.context.trace_id:032x}" for link in back.links}


def test_what_is_not_about_a_deployment_is_not_traced(seen: Seen) -> None:
    answer = ask(new_world(), Reconcile, lambda _: {"findings": {}}, {})
    assert answer.status_code == 200
    assert seen() == []


def test_call_of_a_library_is_a_child_and_begins_no_trace() -> None:
    exporter = InMemorySpanExporter()
    provider = provider_of(exporter)
    tracing.install(provider)
    library = provider.get_tracer("a library")
    call = "/google.firestore.v1.Firestore/Commit"
    library.start_span(call, kind=SpanKind.CLIENT).end()
    with tracing.span("step", tracing.begin("m-1")) as span:
        library.start_span(call, kind=SpanKind.CLIENT).end()
    tracing.flush()
    tracing.install(None)
    made, step = exporter.get_finished_spans()
    assert (made.name, step.name) == (call, "step")
    assert made.parent == span.get_span_context()


def test_deployment_from_before_there_were_traces_goes_on(seen: Seen) -> None:
    kept = TypeAdapter(Deployment).dump_python(deployment())
    del kept["trace"], kept["trace_parent"]
    old = TypeAdapter(Deployment).validate_python(kept)
    assert {field.name for field in fields(old)} >= {"trace", "trace_parent"}
    assert old == deployment()
    world = new_world()
    roll_out(world)
    announced(world)
    assert step(world, "finish", "movies-1-auto").status_code == 200
    assert "finish_deployment" in names(seen())


class Broken(SpanExporter):
    """An exporter that never says that it is done."""

    def __init__(self, answer: Callable[[], SpanExportResult]) -> None:
        self._answer = answer

    def export(self, _: Sequence[ReadableSpan]) -> SpanExportResult:
        """Take nothing."""
        return self._answer()


def raising() -> SpanExportResult:
    raise OSError("no route to host")


EVER = threading.Event()


def hanging() -> SpanExportResult:
    EVER.wait()
    return SpanExportResult.FAILURE


@pytest.mark.parametrize(
    "exporter",
    [
        Broken(raising),
        Broken(hanging),
        Broken(lambda: SpanExportResult.FAILURE),
        OTLPSpanExporter(endpoint="http://127.0.0.1:9/v1/traces"),
    ],
    ids=["raises", "hangs", "fails", "refused"],
)
def test_broken_exporter_changes_no_answer(exporter: SpanExporter) -> None:
    EVER.clear()
    answers = []
    try:
        for broken in (None, exporter):
            tracing.install(provider_of(broken) if broken else None)
            world = new_world()
            outcome = receive(world)
            given = [step(world, name, "movies-1-auto") for name in [*ORDER, "copy"]]
            state = world.state.deployment("movies-1-auto")
            answers.append((outcome, [(one.status_code, one.json) for one in given], state))
    finally:
        EVER.set()
        tracing.install(None)
    assert answers[0] == answers[1]


def test_lines_name_deployment_model_step_and_span(
    seen: Seen, capsys: pytest.CaptureFixture[str]
) -> None:
    world = new_world()
    rolled_out(world)
    done = [line for line in lines(capsys) if line["message"] == "step done"]
    assert [line["step"] for line in done][:2] == ["claim_deployment", "copy_artifacts"]
    spans = {span.name: span for span in seen()}
    for line in done:
        span = spans[line["step"]]
        assert line["deployment_id"] == "movies-1-auto"
        assert line["model_id"] == "movies"
        trace = f"/traces/{span.context.trace_id:032x}"
        assert line["logging.googleapis.com/trace"].endswith(trace)
        assert line["logging.googleapis.com/spanId"] == f"{span.context.span_id:016x}"
        assert line["logging.googleapis.com/trace_sampled"] is True


def test_every_line_of_a_message_names_its_deployment(
    seen: Seen, capsys: pytest.CaptureFixture[str]
) -> None:
    receive(new_world())
    assert seen()
    for line in lines(capsys):
        assert line["deployment_id"] == "movies-1-auto", line
        assert line["model_id"] == "movies"
        assert line["message_id"] == "m-1"


class Written:
    """Takes the template that is written."""

    def update_service(self, request: Any, timeout: float) -> None:
        """Keep the container's environment."""
        assert timeout
        [container] = request.service.template.containers
        self.environment = {variable.name: variable.value for variable in container.env}


@pytest.mark.parametrize(
    ("exporter", "trace", "told"),
    [("otlp", PUBLISHER, True), ("otlp", "", False), ("", PUBLISHER, False)],
    ids=["traced", "from before there were traces", "functions that record nothing"],
)
def test_revision_is_told_the_trace_and_where_spans_go(
    exporter: str, trace: str, told: bool
) -> None:
    environment = {"OTEL_TRACES_EXPORTER": exporter, "TURNOUT_PROJECT": "turnout-test"}
    written: Any = Written()
    settings = Settings.from_environment(environment)
    services = RunServices(written, written, settings, lambda _: settings.parent)
    seen = new_world().cloud_run.service(SERVICE)
    services.write_template(seen, deployment(trace=trace), "model-serving-movies-v1-1")
    expected = {"TRACEPARENT": trace, "OTEL_TRACES_EXPORTER": exporter} if told else {}
    names = ("TRACEPARENT", *TELEMETRY)
    found = {name: value for name, value in written.environment.items() if name in names}
    assert found == expected


@pytest.mark.usefixtures("untraced")
def test_without_an_exporter_lines_name_the_trace_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = new_world()
    rolled_out(world)
    trace = tracing.trace_id(world.state.deployment("movies-1-auto").trace)
    done = [line for line in lines(capsys) if line["message"] == "step done"]
    assert {line["logging.googleapis.com/trace"].split("/")[-1] for line in done} == {trace}
    assert {line["logging.googleapis.com/trace_sampled"] for line in done} == {False}


@pytest.mark.usefixtures("untraced")
def test_passing_fault_is_reported_by_its_code_and_a_refusal_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = new_world()
    receive(world)
    mine = {"deployment_id": "movies-1-auto", "execution": "executions/1"}
    capsys.readouterr()
    for revision in ("v1-1", "v1-2"):

        def fail(_: CopyArtifacts, revision: str = revision) -> dict[str, Any]:
            raise RevisionNotReady(revision, 300)

        ask(world, CopyArtifacts, fail, mine)
    first, second = lines(capsys)
    for line in (first, second):
        assert line["@type"] == logs.REPORTED
        assert line["severity"] == "ERROR"
    group = "message", "context"
    assert {name: first[name] for name in group} == {name: second[name] for name in group}
    assert first["context"]["reportLocation"]["functionName"] == "revision_not_ready"
    assert first["detail"] != second["detail"]

    def refuse(_: CopyArtifacts) -> dict[str, Any]:
        raise Conflict("not now")

    ask(world, CopyArtifacts, refuse, mine)
    [refused] = lines(capsys)
    assert refused["severity"] == "WARNING"
    assert "@type" not in refused


@pytest.mark.usefixtures("untraced")
def test_unexpected_fault_has_its_stack(capsys: pytest.CaptureFixture[str]) -> None:
    def crash(_: Reconcile) -> dict[str, Any]:
        raise ZeroDivisionError("by nothing")

    assert ask(new_world(), Reconcile, crash, {}).status_code == 500
    [line] = lines(capsys)
    assert line["stack_trace"].startswith("Traceback (most recent call last):")
    assert line["stack_trace"].rstrip().endswith("ZeroDivisionError: by nothing")


@pytest.mark.parametrize(
    ("environment", "recorded"),
    [
        ({}, False),
        ({"OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
    ],
    ids=["nothing set", "none", "disabled", "console"],
)
def test_opentelemetrys_own_variables_switch_it(
    environment: dict[str, str], recorded: bool
) -> None:
    program = (
        "import sys\n"
        "from shared import tracing\n"
        "with tracing.span('one'): pass\n"
        "tracing.flush()\n"
        "print('SDK', 'opentelemetry.sdk.trace' in sys.modules)"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ('"name": "one"' in done.stdout) is recorded
    assert f"SDK {recorded}" in done.stdout
