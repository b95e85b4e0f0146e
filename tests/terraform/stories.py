"""What the code writes to its log, story by story: the lines that terraform/ filters.

Each story is played with the functions' own use cases on the tests' fakes; the containers' lines
are written through their own logger.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import flask
from google.api_core.exceptions import InvalidArgument, ServiceUnavailable

from functions.abort_deployment import undo
from functions.announce import announce
from functions.entry import handle
from functions.judge_canary import look
from functions.reconcile import UNCLAIMED_AFTER_S, repair_all
from functions.roll_back import go_back
from serving.keys import ApiKeys, KeyStoreAway
from serving.logs import JsonLines
from shared.errors import HealthCheckFailed, PipelineError, Unavailable
from shared.messages import (
    AbortDeployment,
    CheckHealth,
    CollectMetrics,
    JudgeCanary,
    Message,
    Reconcile,
    RollBack,
)
from tests.fakes import FakeState, World
from tests.unit.stepping import (
    MODEL,
    SERVICE,
    V1,
    V2,
    advance,
    declaration,
    execution_of,
    new_world,
    publish,
    roll_out,
    step,
)

M = TypeVar("M", bound=Message)
Entry = Mapping[str, Any]
LIMIT_S = 4000


def good_rollout() -> None:
    """v1 goes live, v2 takes over."""
    world = new_world()
    for run in (1, 2):
        roll_out(world, run)
        world.clock.sleep(60)
    announce(world.ports())


def pipeline_fails() -> None:
    """Cloud Run does not answer, however often it is asked."""
    _fails(_http(Unavailable("Cloud Run did not answer")))


def workflow_loses_a_function() -> None:
    """No function answers at all."""
    _fails({"tags": ["ConnectionError"], "message": "no route to host"})


def candidate_is_unhealthy() -> None:
    """The health check refuses it."""
    _fails(_http(HealthCheckFailed("customer '15' got no recommendations")))


def judge_gives_up() -> None:
    """The workflow raises what the judge said."""
    _fails("canary at 10 %: p95 is 22 ms")


def execution_dies() -> None:
    """The workflow ends without an abort; reconcile does it."""
    world = new_world()
    name = publish(world, 1)
    advance(world, name, "copy")
    world.executions.end(execution_of(world, name), "FAILED", "out of memory")
    repair_all(Reconcile(), world.ports())


def nobody_claims() -> None:
    """An execution was lost before it began; reconcile starts another."""
    world = new_world()
    publish(world, 1)
    world.clock.sleep(UNCLAIMED_AFTER_S)
    repair_all(Reconcile(), world.ports())


def stage_holds() -> None:
    """A stage waits for a person, and waits."""
    world, name = _at_ten_percent()
    world.clock.sleep(700)
    _look(world, name)
    announce(world.ports())


def nobody_approves() -> None:
    """Most of the time for an approval is over."""
    world, name = _at_ten_percent()
    world.clock.sleep(700)
    with contextlib.redirect_stdout(io.StringIO()):
        _look(world, name)
    world.clock.sleep(0.8 * LIMIT_S)
    _look(world, name)


def person_rolls_back() -> None:
    """Back from v2 to v1."""
    world = new_world()
    roll_out(world, 1)
    roll_out(world, 2)
    announce(world.ports())
    go_back(RollBack(model_id=MODEL, reason="odd answers"), "ops@example.com", world.ports())
    announce(world.ports())


def person_moves_traffic() -> None:
    """Somebody writes a split past the pipeline."""
    world = new_world()
    roll_out(world, 1)
    roll_out(world, 2)
    world.cloud_run.by_hand(SERVICE, {V1: 50, V2: 50})
    repair_all(Reconcile(), world.ports())


def documents_are_older() -> None:
    """Firestore comes back empty."""
    world = new_world()
    roll_out(world, 1)
    with contextlib.suppress(PipelineError):
        repair_all(Reconcile(), world.ports(state=FakeState(declaration())))


def cloud_run_is_gone() -> None:
    """A model's service is not there."""
    world = new_world()
    roll_out(world, 1)
    del world.cloud_run.services[SERVICE]
    with contextlib.suppress(PipelineError):
        repair_all(Reconcile(), world.ports())


def workflows_are_down() -> None:
    """A run has its turn, and no execution can be started."""
    world = new_world()
    first, _ = publish(world, 1), publish(world, 2)

    def down(*_: object) -> None:
        raise ServiceUnavailable("workflows")

    world.executions.started = down
    _undo(world, first, "canary at 10 %: bad")


def pubsub_is_down() -> None:
    """Events cannot be published."""
    world = new_world()
    roll_out(world, 1)
    world.events.before = _raising(ServiceUnavailable("pubsub"))
    announce(world.ports())


def schema_refuses() -> None:
    """The events' schema does not take one."""
    world = new_world()
    publish(world, 1)
    world.events.before = _raising(InvalidArgument("schema"))
    announce(world.ports())


def one_model_of_all_cannot_be_repaired() -> None:
    """A model's service is gone; the scheduler calls for all models."""
    world = new_world()
    with contextlib.redirect_stdout(io.StringIO()):
        roll_out(world, 1)
    del world.cloud_run.services[SERVICE]
    _call(Reconcile, lambda command: repair_all(command, world.ports()), world)


def schedule_runs() -> None:
    """Both scheduled functions find nothing to do."""
    world = new_world()
    _call(Reconcile, lambda command: repair_all(command, world.ports()), world)
    _call(CollectMetrics, lambda _: {"written": {}}, world)


def step_is_refused() -> None:
    """A function answers with a problem, and another one with a 500."""
    for error in (HealthCheckFailed("wrong"), Unavailable("not now"), RuntimeError("surprise")):

        def fail(_: CheckHealth, error: Exception = error) -> dict[str, Any]:
            raise error

        _call(CheckHealth, fail, new_world(), deployment_id="movies-1-auto", execution="one")


def reconcile_dies() -> None:
    """It cannot even read which models there are."""

    def fail(_: Reconcile) -> dict[str, Any]:
        raise ServiceUnavailable("firestore")

    _call(Reconcile, fail, new_world())


def key_store_is_away() -> None:
    """A container does not reach Firestore."""

    class Away:
        def find(self, _: str) -> None:
            raise KeyStoreAway("deadline exceeded")

        def take(self, _key: str, _minute: int, _requests: int) -> int:
            raise KeyStoreAway("deadline exceeded")

    with _serving_log():
        ApiKeys(MODEL, Away()).connect()


STORIES: Mapping[str, Callable[[], None]] = {
    story.__name__: story
    for story in (
        good_rollout,
        pipeline_fails,
        workflow_loses_a_function,
        candidate_is_unhealthy,
        judge_gives_up,
        execution_dies,
        nobody_claims,
        stage_holds,
        nobody_approves,
        person_rolls_back,
        person_moves_traffic,
        documents_are_older,
        cloud_run_is_gone,
        workflows_are_down,
        pubsub_is_down,
        schema_refuses,
        one_model_of_all_cannot_be_repaired,
        schedule_runs,
        step_is_refused,
        reconcile_dies,
        key_store_is_away,
    )
}


def tell(name: str) -> list[Entry]:
    """Play a story; return its lines as Cloud Logging keeps them."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        STORIES[name]()
    return [entry_of(json.loads(line)) for line in written.getvalue().splitlines()]


def entry_of(line: dict[str, Any]) -> Entry:
    """Return the log entry that Cloud Run makes of one JSON line."""
    known = {"severity", "time"}
    fields = {
        name: value
        for name, value in line.items()
        if name not in known and not name.startswith("logging.googleapis.com/")
    }
    return {
        "severity": line["severity"],
        "jsonPayload": fields,
        "resource": {
            "type": "cloud_run_revision",
            "labels": {"service_name": SERVICE, "revision_name": V1},
        },
    }


def _call(
    kind: type[M], use_case: Callable[[M], dict[str, Any]], world: World, **body: Any
) -> None:
    """Call a function over HTTP, as far as its own lines go."""
    with flask.Flask(__name__).test_request_context(json=body):
        handle(kind, flask.request, use_case, world.state, lambda: None)


def _fails(error: Any) -> None:
    world = new_world()
    name = publish(world, 1)
    advance(world, name, "copy")
    _undo(world, name, error)
    announce(world.ports())


def _undo(world: World, name: str, error: Any) -> None:
    command = AbortDeployment(deployment_id=name, execution=execution_of(world, name), error=error)
    undo(command, world.ports())
    undo(command, world.ports())  # the workflow repeats it where the answer was lost


def _http(error: PipelineError) -> dict[str, Any]:
    """What the workflow catches of a function's problem: the body is text to it."""
    return {
        "tags": ["HttpError"],
        "code": error.http_status,
        "message": "HTTP server responded with error",
        "body": json.dumps(error.problem()),
    }


def _at_ten_percent() -> tuple[World, str]:
    hold = {"at_percent": [10], "limit_s": LIMIT_S}
    world = new_world(policy={"canary": {"judge": "off"}, "hold": hold})
    with contextlib.redirect_stdout(io.StringIO()):
        roll_out(world, 1)
        name = publish(world, 2, strategy="gradual", steps_percent=[10, 50], over="20m")
        advance(world, name, "check")
        step(world, "shift", name, percent=10)
    return world, name


def _look(world: World, name: str) -> None:
    command = JudgeCanary(deployment_id=name, execution=execution_of(world, name))
    look(command, world.ports(), world.judging())


def _raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@contextlib.contextmanager
def _serving_log() -> Iterator[None]:
    """Let the containers' logger write its lines to stdout."""
    handler, logger = logging.StreamHandler(), logging.getLogger("serving")
    handler.setFormatter(JsonLines())
    written = io.StringIO()
    handler.setStream(written)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        print(written.getvalue(), end="")
