"""The Executions and Workflows APIs, called by Google's unmodified clients."""

from __future__ import annotations

import datetime as dt
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.api_core import exceptions
from google.cloud import workflows_v1
from google.cloud.workflows import executions_v1

from localcloud.workflows import FakeClock, SourceError, SystemClock
from tests.workflow.running import EMAIL, LOCATION, Cloud, State, until

Execution = executions_v1.Execution
View = executions_v1.ExecutionView
ECHO = "main: {params: [args], steps: [{echo: {return: '${args}'}}]}"
SLEEP = "main: {steps: [{bake: {call: sys.sleep, args: {seconds: 3600}}}, {done: {return: 1}}]}"
NAME = f"{LOCATION}/workflows/test"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with Cloud(tmp_path, {"test": ECHO}) as running:
        yield running


@pytest.fixture
def sleeping(tmp_path: Path) -> Iterator[Cloud]:
    """A cloud whose clock stands still, so that what sleeps stays active."""
    with Cloud(tmp_path, {"test": SLEEP}, clock=FakeClock(advancing=False)) as running:
        yield running


def start(cloud: Cloud, **fields: object) -> Execution:
    return cloud.client.create_execution(parent=NAME, execution=Execution(**fields))


def test_execution_is_active_when_created_and_succeeds_with_its_result(cloud: Cloud) -> None:
    created = start(cloud, argument='{"n": 1}', labels={"model": "movies"})
    ended = cloud.finished(created)

    assert created.name.startswith(f"{NAME}/executions/")
    assert created.state == State.ACTIVE
    assert ended.state == State.SUCCEEDED
    assert json.loads(ended.result) == {"n": 1}
    assert ended.argument == '{"n": 1}'
    assert ended.labels == {"model": "movies"}
    assert ended.workflow_revision_id.startswith("000001-")
    assert ended.start_time == created.start_time
    assert ended.end_time >= ended.start_time
    assert [(s.routine, s.step) for s in ended.status.current_steps] == [("main", "echo")]
    assert "error" not in ended


def test_execution_without_an_argument_receives_null(cloud: Cloud) -> None:
    assert json.loads(cloud.finished(start(cloud)).result) is None


def test_active_execution_shows_its_current_step_and_no_result(sleeping: Cloud) -> None:
    begun = start(sleeping)
    sleeping.clock.wait_until_asleep()  # type: ignore[attr-defined]
    found = sleeping.client.get_execution(name=begun.name)

    assert found.state == State.ACTIVE
    assert [(s.routine, s.step) for s in found.status.current_steps] == [("main", "bake")]
    assert "end_time" not in found
    assert found.result == ""


def test_basic_view_holds_only_the_basic_fields(cloud: Cloud) -> None:
    ended = cloud.finished(start(cloud, argument="1"))
    request = executions_v1.GetExecutionRequest(name=ended.name, view=View.BASIC)
    basic = cloud.client.get_execution(request)

    assert {field.name for field, _ in Execution.pb(basic).ListFields()} <= {
        "name", "start_time", "end_time", "duration", "state", "workflow_revision_id",
    }  # fmt: skip
    assert basic.state == State.SUCCEEDED


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"argument": "{"}, "not JSON"),
        ({"argument": json.dumps("x" * 32 * 1024)}, "32768 bytes"),
        ({"argument": "[" * 30_000}, "not JSON"),
        ({"labels": {f"k{n}": "v" for n in range(65)}}, "over 64 labels"),
        ({"labels": {"Upper": "v"}}, "'Upper'"),
        ({"labels": {"k": "Upper"}}, "'Upper'"),
        ({"labels": {"k": "v" * 64}}, "not a value"),
    ],
    ids=["not_json", "too_long", "too_deep", "65_labels", "bad_key", "bad_value", "long_value"],
)
def test_creation_with_a_bad_field_is_refused_and_leaves_nothing(
    cloud: Cloud, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(exceptions.InvalidArgument, match=message):
        start(cloud, **fields)

    assert list(cloud.client.list_executions(parent=NAME)) == []


def test_argument_to_a_workflow_that_takes_none_is_refused(sleeping: Cloud) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="takes no argument"):
        start(sleeping, argument='{"n": 1}')


@pytest.mark.parametrize(
    "parent",
    [
        f"{LOCATION}/workflows/other",
        "projects/other/locations/europe-central2/workflows/test",
        "projects/turnout-local/locations/us-central1/workflows/test",
    ],
)
def test_what_does_not_exist_is_not_found(cloud: Cloud, parent: str) -> None:
    with pytest.raises(exceptions.NotFound):
        cloud.client.create_execution(parent=parent, execution=Execution())
    with pytest.raises(exceptions.NotFound):
        cloud.client.list_executions(parent=parent)
    with pytest.raises(exceptions.NotFound):
        cloud.client.get_execution(name=f"{parent}/executions/none")
    with pytest.raises(exceptions.NotFound):
        cloud.client.cancel_execution(name=f"{parent}/executions/none")


def test_field_of_a_newer_api_is_refused_by_number(cloud: Cloud) -> None:
    request = executions_v1.CreateExecutionRequest(parent=NAME)
    known = executions_v1.CreateExecutionRequest.serialize(request)
    # Field 99, a string, inside the execution (field 2).
    unknown = known + b"\x12\x06\x9a\x06\x03abc"
    call = cloud.channel.unary_unary(
        "/google.cloud.workflows.executions.v1.Executions/CreateExecution",
        request_serializer=lambda content: content,
    )

    with pytest.raises(Exception, match="field 99 of Execution is not supported"):
        call(unknown)


def test_execution_can_be_cancelled_once(sleeping: Cloud) -> None:
    begun = start(sleeping)
    cancelled = sleeping.client.cancel_execution(name=begun.name)

    assert cancelled.state == State.CANCELLED
    assert "end_time" in cancelled
    assert cancelled.error.payload
    with pytest.raises(exceptions.FailedPrecondition, match="CANCELLED"):
        sleeping.client.cancel_execution(name=begun.name)


def test_cancelling_what_has_succeeded_changes_nothing(cloud: Cloud) -> None:
    ended = cloud.finished(start(cloud))

    with pytest.raises(exceptions.FailedPrecondition, match="SUCCEEDED"):
        cloud.client.cancel_execution(name=ended.name)
    assert cloud.client.get_execution(name=ended.name) == ended


# Lists


def names(pager: object) -> list[str]:
    return [execution.name for execution in pager]  # type: ignore[attr-defined]


def test_list_is_newest_first_and_pages_without_gap_or_repeat(cloud: Cloud) -> None:
    begun = []
    for n in range(5):
        cloud.clock.advance(1)  # type: ignore[attr-defined]
        begun.append(cloud.finished(start(cloud, argument=str(n))).name)
    request = executions_v1.ListExecutionsRequest(parent=NAME, page_size=2)
    pages = [names(page.executions) for page in cloud.client.list_executions(request).pages]

    assert [len(page) for page in pages] == [2, 2, 1]
    assert [name for page in pages for name in page] == begun[::-1]


def test_list_has_the_basic_view_unless_the_full_one_is_asked_for(cloud: Cloud) -> None:
    cloud.finished(start(cloud, argument="7"))
    (basic,) = cloud.client.list_executions(parent=NAME)
    full_request = executions_v1.ListExecutionsRequest(parent=NAME, view=View.FULL)
    (full,) = cloud.client.list_executions(full_request)

    assert (basic.argument, full.argument) == ("", "7")


def test_list_filters_by_state_label_time_and_step(sleeping: Cloud) -> None:
    first = start(sleeping, labels={"model": "movies", "kind": "a"})
    sleeping.clock.wait_until_asleep()  # type: ignore[attr-defined]
    sleeping.clock.advance(10)  # type: ignore[attr-defined]
    second = start(sleeping, labels={"model": "books"})
    sleeping.clock.wait_until_asleep(2)  # type: ignore[attr-defined]
    sleeping.client.cancel_execution(name=first.name)
    later = dt.datetime.fromtimestamp(1767225605, dt.UTC).isoformat()

    def found(text: str) -> list[str]:
        request = executions_v1.ListExecutionsRequest(parent=NAME, filter=text)
        return names(sleeping.client.list_executions(request))

    assert found('state="ACTIVE"') == [second.name]
    assert found("state = CANCELLED") == [first.name]
    assert found('labels.model="movies"') == [first.name]
    assert found('label.model:"books" AND state!="CANCELLED"') == [second.name]
    assert found('label.kind="a" AND state="ACTIVE"') == []
    assert found(f'startTime>"{later}"') == [second.name]
    assert found('duration<"20s"') == [first.name]
    assert found('stepName="bake"') == [second.name, first.name]
    assert found(f'executionID="{first.name.rsplit("/", 1)[1]}"') == [first.name]


@pytest.mark.parametrize(
    ("filter", "error"),
    [
        ('state="ACTIVE" OR state="FAILED"', exceptions.MethodNotImplemented),
        ('NOT state="ACTIVE"', exceptions.MethodNotImplemented),
        ('(state="ACTIVE")', exceptions.MethodNotImplemented),
        ('colour="red"', exceptions.InvalidArgument),
        ("state", exceptions.InvalidArgument),
        ('state="ACTIVE" AND ', exceptions.InvalidArgument),
        ('state>"ACTIVE"', exceptions.InvalidArgument),
        ('startTime>"soon"', exceptions.InvalidArgument),
    ],
)
def test_filter_that_is_not_understood_is_refused(
    cloud: Cloud, filter: str, error: type[Exception]
) -> None:
    request = executions_v1.ListExecutionsRequest(parent=NAME, filter=filter)

    with pytest.raises(error):
        cloud.client.list_executions(request)


def test_list_orders_as_asked_and_refuses_an_unknown_order(cloud: Cloud) -> None:
    for _ in range(2):
        cloud.clock.advance(1)  # type: ignore[attr-defined]
        cloud.finished(start(cloud))
    newest = names(cloud.client.list_executions(parent=NAME))
    request = executions_v1.ListExecutionsRequest(parent=NAME, order_by="startTime")

    assert names(cloud.client.list_executions(request)) == newest[::-1]
    request.order_by = "colour"
    with pytest.raises(exceptions.InvalidArgument, match="colour"):
        cloud.client.list_executions(request)


def test_page_token_of_another_request_is_refused(cloud: Cloud) -> None:
    for _ in range(2):
        cloud.finished(start(cloud))
    request = executions_v1.ListExecutionsRequest(parent=NAME, page_size=1)
    token = next(cloud.client.list_executions(request).pages).next_page_token

    for wrong in (
        {"page_token": token, "filter": 'state="ACTIVE"'},
        {"page_token": "nonsense"},
    ):
        request = executions_v1.ListExecutionsRequest(parent=NAME, **wrong)
        with pytest.raises(exceptions.InvalidArgument, match="page_token"):
            cloud.client.list_executions(request)


# Workflows and their revisions


def test_workflow_shows_its_source_revision_and_identity(cloud: Cloud) -> None:
    found = cloud.catalogue.get_workflow(name=NAME)

    assert found.source_contents == ECHO
    assert found.service_account == f"projects/turnout-local/serviceAccounts/{EMAIL}"
    assert found.state == workflows_v1.Workflow.State.ACTIVE
    assert [w.name for w in cloud.catalogue.list_workflows(parent=LOCATION)] == [NAME]


def test_same_source_keeps_its_revision_and_a_new_one_makes_a_revision(cloud: Cloud) -> None:
    before = cloud.catalogue.get_workflow(name=NAME).revision_id
    cloud.deploy(ECHO)
    again = cloud.catalogue.get_workflow(name=NAME).revision_id
    cloud.deploy(SLEEP)
    after = cloud.catalogue.get_workflow(name=NAME)
    old = cloud.catalogue.get_workflow(
        workflows_v1.GetWorkflowRequest(name=NAME, revision_id=before)
    )

    assert before == again
    assert (before[:6], after.revision_id[:6]) == ("000001", "000002")
    assert (old.source_contents, after.source_contents) == (ECHO, SLEEP)


def test_running_execution_keeps_the_source_it_started_with(sleeping: Cloud) -> None:
    begun = start(sleeping)
    sleeping.clock.wait_until_asleep()  # type: ignore[attr-defined]
    sleeping.deploy("main: {steps: [{other: {return: 2}}]}")
    sleeping.clock.advance(3600)  # type: ignore[attr-defined]
    old, new = sleeping.finished(begun), sleeping.finished(start(sleeping))

    assert (json.loads(old.result), json.loads(new.result)) == (1, 2)
    assert old.workflow_revision_id != new.workflow_revision_id


def test_source_that_is_refused_leaves_the_deployed_one(cloud: Cloud) -> None:
    with pytest.raises(SourceError):
        cloud.deploy("main: {steps: [{a: {call: nobody}}]}")

    assert cloud.catalogue.get_workflow(name=NAME).source_contents == ECHO


def test_changing_workflows_through_the_api_is_unimplemented_by_name(cloud: Cloud) -> None:
    with pytest.raises(exceptions.MethodNotImplemented, match="DeleteWorkflow"):
        cloud.catalogue.delete_workflow(name=NAME)
    filtered = workflows_v1.ListWorkflowsRequest(parent=LOCATION, filter="x=1")
    with pytest.raises(exceptions.MethodNotImplemented, match="filter"):
        cloud.catalogue.list_workflows(filtered)


@pytest.mark.parametrize(
    "environment",
    [{"GOOGLE_X": "1"}, {"WORKFLOWS_X": "1"}, {"": "1"}, {f"V{n}": "" for n in range(21)}],
    ids=["google", "workflows", "empty", "21_variables"],
)
def test_environment_the_service_would_refuse_is_refused(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="environment variable"):
        Cloud(tmp_path, environment=environment)


# Restarts


CHILD = """
import sys, time
from pathlib import Path
from localcloud.workflows import SystemClock
from tests.workflow.running import Cloud
with Cloud(Path(sys.argv[1]), {"test": sys.argv[2]}, clock=SystemClock()) as cloud:
    print(cloud.port, flush=True)
    sys.stdin.read()
"""


def test_kill_9_loses_nothing_acknowledged_and_fails_what_was_running(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), SLEEP],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        client = Cloud.connect(int(child.stdout.readline()))
        finished = client.create_execution(parent=NAME, execution=Execution(labels={"a": "1"}))
        client.cancel_execution(name=finished.name)
        begun = client.create_execution(parent=NAME, execution=Execution(labels={"b": "2"}))
        until(
            lambda: client.get_execution(name=begun.name).status.current_steps,
            lambda steps: bool(steps),
        )
        just_created = client.create_execution(parent=NAME, execution=Execution())
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.communicate()

    with Cloud(tmp_path, {"test": SLEEP}, clock=SystemClock()) as cloud:
        failed = cloud.client.get_execution(name=begun.name)
        listed = names(cloud.client.list_executions(parent=NAME))
        newest = cloud.client.get_execution(name=just_created.name)

        assert failed.state == State.FAILED
        assert json.loads(failed.error.payload) == {
            "message": "the local cloud stopped while this execution ran",
            "tags": ["SystemError"],
        }
        assert failed.labels == {"b": "2"}
        assert [step.step for step in failed.status.current_steps] == ["bake"]
        assert newest.state == State.FAILED
        assert cloud.client.get_execution(name=finished.name).state == State.CANCELLED
        assert listed == [just_created.name, begun.name, finished.name]
        assert start(cloud).workflow_revision_id == failed.workflow_revision_id


def test_stop_fails_what_runs_and_ends_its_threads(tmp_path: Path) -> None:
    with Cloud(tmp_path, {"test": SLEEP}, clock=SystemClock()) as cloud:
        begun = start(cloud)

    with Cloud(tmp_path, {"test": SLEEP}, clock=SystemClock()) as cloud:
        ended = cloud.client.get_execution(name=begun.name)
    assert ended.state == State.FAILED
    assert "stopped while" in ended.error.context


def test_start_with_a_wrong_source_names_the_workflow_and_the_line(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, {"deploy_model": "main:\n  steps:\n    - a: {call: nobody}\n"})

    with pytest.raises(SourceError, match=r'step "a", line 3: workflow "deploy_model"'):
        cloud.workflows.start()
    cloud.workflows.stop()
