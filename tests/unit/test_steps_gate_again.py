"""A run that waited for its turn is compared with what went live meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from functions.abort_deployment import undo
from functions.claim_deployment import take
from functions.reconcile import repair
from shared.domain.deployment import Status
from shared.messages import AbortDeployment, ClaimDeployment
from tests.fakes import World
from tests.unit.crashing import dying
from tests.unit.stepping import (
    MODEL,
    V2,
    V3,
    advance,
    execution_of,
    new_world,
    publish,
    roll_out,
    served,
    step,
)

LATE = f"{MODEL}-2-auto"


def overtaken(**deploy: str) -> World:
    """Run 1 is live as v1; run 3 rolls out as v2 when run 2, better than run 1, comes as v3."""
    world = new_world()
    roll_out(world, 1)
    newer = publish(world, 3)
    advance(world, newer, "shift")
    publish(world, 2, **deploy)
    assert world.state.deployment(LATE).waiting
    return world


def goes_live(world: World) -> None:
    step(world, "finish", f"{MODEL}-3-auto")
    assert served(world) == {V2: 100}
    assert world.state.deployment(LATE).token is not None


def test_late_run_ends_at_its_claim_and_leaves_the_traffic_alone() -> None:
    world = overtaken()
    goes_live(world)
    assert step(world, "claim", LATE)["claimed"] is False
    found = world.state.deployment(LATE)
    assert found.status is Status.CANCELLED
    assert found.reason.startswith("v2 went live meanwhile: not better by 0: recall_at_100 0.4200")
    assert served(world) == {V2: 100}
    model = world.state.model(MODEL)
    assert (model.active, model.lock) == (f"{MODEL}-3-auto", None)
    assert step(world, "claim", LATE)["claimed"] is False


def test_run_that_is_better_than_that_too_goes_on() -> None:
    world = new_world()
    roll_out(world, 1)
    advance(world, publish(world, 2), "shift")
    better = publish(world, 3)
    step(world, "finish", f"{MODEL}-2-auto")
    advance(world, better)
    assert served(world) == {V3: 100}


def abort(world: World) -> None:
    name = f"{MODEL}-3-auto"
    undo(AbortDeployment(deployment_id=name, execution=execution_of(world, name)), world.ports())


@pytest.mark.parametrize(
    ("deploy", "before"),
    [({}, abort), ({"when": "always"}, goes_live)],
    ids=["live is what it was compared with", "deployed whatever the metrics say"],
)
def test_run_is_not_compared_again_for_nothing(
    deploy: dict[str, str], before: Callable[[World], None]
) -> None:
    world = overtaken(**deploy)
    before(world)
    advance(world, LATE)
    assert served(world) == {V3: 100}


def test_process_that_dies_at_any_call_of_it_is_completed() -> None:
    def begin() -> World:
        world = overtaken()
        goes_live(world)
        return world

    execution = execution_of(begin(), LATE)
    command = ClaimDeployment(deployment_id=LATE, execution=execution)
    for world in dying(begin, lambda ports: take(command, ports)):
        repair(MODEL, world.ports())
        step(world, "claim", LATE)
        assert world.state.deployment(LATE).status is Status.CANCELLED
        assert world.state.model(MODEL).lock is None
        assert served(world) == {V2: 100}
