"""A plan says what a message would do; nothing is written, and the message then does just that."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions.on_training_completed import receive
from functions.planning import Plan, plan
from shared.domain.deployment import Status, StepName
from shared.domain.policy import Checking
from shared.messages import Policy
from tests.fakes import World
from tests.unit.stepping import MODEL, advance, message, new_world, publish, roll_out, train


class ReadOnly:
    """A port whose every call is allowed only where it reads."""

    READS = frozenset(
        {"declaration", "model_ids", "model", "deployment", "deployments", "run", "list", "read"}
    )

    def __init__(self, port: Any) -> None:
        self._port = port

    def __getattr__(self, name: str) -> Any:
        assert name in self.READS, f"a plan calls {name}"
        return getattr(self._port, name)


class Untouchable:
    """A port that a plan has no use for."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a plan calls {name}")


def everything(world: World) -> Any:
    """Every document and object, and all that was sent anywhere."""
    return copy.deepcopy(
        (
            vars(world.state)["_documents"],
            vars(world.state)["_events"],
            world.state.refusals,
            vars(world.objects)["_buckets"],
            world.executions.states,
            world.dead_letters.messages,
            world.keys.active,
            {
                name: (service.split, service.tags)
                for name, service in world.cloud_run.services.items()
            },
        )
    )


def planned(world: World, data: bytes) -> Plan:
    """Return the plan; nothing may be different afterwards."""
    before = everything(world)
    made = plan(
        data,
        world.ports(
            state=ReadOnly(world.state),
            objects=ReadOnly(world.objects),
            cloud_run=Untouchable(),
            jobs=Untouchable(),
            executions=Untouchable(),
            dead_letters=Untouchable(),
            predictions=Untouchable(),
            keys=Untouchable(),
        ),
    )
    assert everything(world) == before
    return made


def nothing_yet() -> World:
    return new_world()


def one_live() -> World:
    world = new_world()
    roll_out(world, 1)
    return world


def rolling(**fields: Any) -> World:
    world = new_world(**fields)
    roll_out(world, 1)
    publish(world, 2)
    return world


def one_waiting() -> World:
    world = rolling()
    publish(world, 5)
    return world


GRADUAL = {"when": "always", "strategy": "gradual", "steps_percent": [10, 50], "over": "10m"}


@pytest.mark.parametrize(
    ("situation", "data", "outcome", "why"),
    [
        pytest.param(nothing_yet, b"no json", "refused", "not JSON", id="no JSON"),
        pytest.param(nothing_yet, b"{}", "refused", "model_id", id="empty"),
        pytest.param(
            nothing_yet, message(model_id="books"), "refused", "no model 'books'", id="no model"
        ),
        pytest.param(
            nothing_yet,
            message(artifact_uri="gs://elsewhere/run-1"),
            "refused",
            "only listed buckets",
            id="bucket",
        ),
        pytest.param(
            one_live,
            message(artifact_uri="gs://training/other"),
            "refused",
            "another run number",
            id="other artifacts",
        ),
        pytest.param(nothing_yet, message(), "started", "no version is active", id="first"),
        pytest.param(one_live, message(2), "started", "better: recall_at_100", id="better"),
        pytest.param(
            one_live, message(2, metrics={"recall_at_100": 0.1}), "listed", "not better", id="worse"
        ),
        pytest.param(one_live, message(2, {"when": "off"}), "listed", "is off", id="off"),
        pytest.param(one_live, message(1), "known", "movies-1-auto exists already", id="again"),
        pytest.param(
            rolling, message(3), "waiting", "waits for the rollout of movies-2-auto", id="busy"
        ),
        pytest.param(
            one_waiting, message(3), "cancelled", "run 5 is newer", id="a newer one waits"
        ),
        pytest.param(one_waiting, message(6), "waiting", "waits for", id="the newest"),
        pytest.param(
            lambda: rolling(policy=Policy(superseding="replace")),
            message(3),
            "started",
            "it replaces movies-2-auto",
            id="replaces",
        ),
        pytest.param(
            one_live, message(2, {**GRADUAL, "steps_percent": [50, 10]}), "refused", "ascend",
            id="steps",
        ),
    ],
)  # fmt: skip
def test_plan_says_what_the_message_then_does(
    situation: Callable[[], World], data: bytes, outcome: str, why: str
) -> None:
    world = situation()
    made = planned(world, data)
    assert (made.outcome, why in made.why) == (outcome, True), made.why
    agrees(world, data, made)


def agrees(world: World, data: bytes, made: Plan) -> None:
    """Deliver the message and hold the plan to what comes of it."""
    statuses = {one.id: one.status for one in world.state.deployments(MODEL)}
    became = receive(data, "m", world.ports())
    if made.outcome == "known":
        # A redelivery may start the execution of a deployment once more; it makes no other one.
        assert {one.id for one in world.state.deployments(MODEL)} == set(statuses)
    elif made.outcome == "cancelled":
        assert world.state.deployment(made.deployment_id).status is Status.CANCELLED
    else:
        assert became == made.outcome
    if made.gate and not made.decided_before:
        number = json.loads(data)["run_number"]
        run = world.state.run(f"{MODEL}-{number}")
        assert run is not None
        request_id = (json.loads(data).get("deploy") or {}).get("request_id", "auto")
        kept = run["decisions"][request_id]
        assert (kept["deploy"], kept["why"]) == (made.gate.deploy, made.gate.why)
        assert kept["comparison"] == made.gate.comparison
    if made.deployment_id:
        found = world.state.deployment(made.deployment_id)
        assert made.version == found.name
        if made.stages:
            assert [(one.percent, one.bake_s) for one in made.stages] == [
                (stage.percent, stage.bake_s) for stage in found.plan.stages
            ]
    ended = {
        one.id
        for one in world.state.deployments(MODEL)
        if one.id in statuses and one.status != statuses[one.id]
    }
    assert set(made.replaces) == ended


DELIVERIES = st.lists(
    st.tuples(
        st.integers(1, 5),
        st.sampled_from(["if_better", "always", "off", None]),
        st.sampled_from(["auto", "a"]),
        st.sampled_from([0.1, 0.4, 0.5]),
        st.sampled_from(["publish", "advance", "end"]),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(DELIVERIES, st.sampled_from(["queue", "replace"]))
def test_whatever_happened_before_the_plan_comes_true(
    deliveries: list[tuple[int, str | None, str, float, str]], superseding: str
) -> None:
    world = new_world(policy=Policy(superseding=superseding))
    for number in range(1, 6):
        train(world, number)
    for number, when, request_id, recall, then in deliveries:
        deploy = {"request_id": request_id, **({"when": when} if when else {})}
        data = message(number, deploy, metrics={"recall_at_100": recall})
        made = planned(world, data)
        agrees(world, data, made)
        if then == "advance" and made.outcome == "started":
            advance(world, made.deployment_id)


def test_plan_names_version_steps_stages_and_which_checks_gate() -> None:
    policy = Policy(
        skew={"check": "gate", "tolerance": 0.01},
        canary={"judge": "report", "minimum_requests": 300},
        hold={"at_percent": (50,)},
    )
    made = planned(new_world(policy=policy), message(1, GRADUAL))
    assert (made.version, made.deployment_id) == ("v1", "movies-1-auto")
    assert [(one.percent, one.bake_s, one.held) for one in made.stages] == [
        (10, 300, False),
        (50, 300, True),
        (100, 0, False),
    ]
    assert made.steps == tuple(StepName)
    checks = {check.name: check.checking for check in made.checks}
    assert checks == {
        "model": Checking.GATE,
        "health": Checking.GATE,
        "skew": Checking.GATE,
        "canary": Checking.REPORT,
    }


def test_rollout_without_bakes_has_no_canary() -> None:
    made = planned(new_world(), message())
    assert {check.name: check.checking for check in made.checks}["canary"] is Checking.OFF


def test_decision_of_an_earlier_delivery_stands_whatever_is_live_now() -> None:
    world = one_live()
    worse = message(2, metrics={"recall_at_100": 0.1})
    first = planned(world, worse)
    assert not first.decided_before
    receive(worse, "m", world.ports())
    again = planned(world, worse)
    assert (again.outcome, again.decided_before, again.why) == ("listed", True, first.why)


def results(world: World, bucket: str, name: str, values: Mapping[str, float]) -> None:
    lines = [json.dumps({"customer_id": one, "recall_at_100": v}) for one, v in values.items()]
    world.objects.put(bucket, name, "\n".join(lines).encode())


def test_gate_of_the_plan_has_the_numbers_of_the_same_customers() -> None:
    world = new_world(policy=Policy(significance=0.05))
    roll_out(world, 1)
    before = {f"c{n}": 0.3 + (n % 7) / 20 for n in range(100)}
    after = {name: value + 0.02 + (int(name[1:]) % 3) / 100 for name, value in before.items()}
    results(world, "serving", "models/movies/v1/evaluation/results.jsonl", before)
    results(world, "training", "run-2/evaluation/results.jsonl", after)
    made = planned(world, message(2))
    assert made.gate is not None
    assert made.outcome == "started"
    assert made.gate.comparison["by_customer"]["n"] == 100
    agrees(world, message(2), made)
