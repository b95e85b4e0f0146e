"""What happens to a model while a fault strikes, and which functions are at work then.

A story prepares the model, arms the rules at the moment that matters, acts, and returns the
deployments that it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.e2e.world import message, until
from tests.faults.cases import REFUSED, Rule
from tests.faults.rig import MODEL, Rig

STEPS = (
    "on_training_completed",
    "claim_deployment",
    "copy_artifacts",
    "prepare_model",
    "create_revision",
    "check_health",
    "shift_traffic",
    "judge_canary",
    "finish_deployment",
)
# Longer than a story takes: what bakes is still baking when somebody interferes.
LONG, SHORT = "120s", "1s"
UNKNOWN = "nobody"


@dataclass(frozen=True)
class Story:
    """`play` it with rules armed; the matrix strikes `functions`, at `methods` only if given.

    `succeeds` is how it ends without a fault: "completed", or "as before" where it is about
    undoing something.
    """

    play: Callable[[Rig, Sequence[Rule]], list[str]]
    functions: tuple[str, ...]
    succeeds: str
    methods: frozenset[str] = frozenset()


def _deploy(rig: Rig, rules: Sequence[Rule]) -> list[str]:
    rig.arm(rules)
    return [_publish(rig, SHORT)]


def _queue(rig: Rig, rules: Sequence[Rule]) -> list[str]:
    """A second run waits for the end of the first one."""
    first = _publish(rig, "5s")
    rig.at_percent(first, 50)
    rig.arm(rules)
    return [first, _waiting(rig)]


def _abort(rig: Rig, rules: Sequence[Rule]) -> list[str]:
    """Cloud Run refuses the last shift, with half of the traffic moved."""
    rig.arm([Rule("shift_traffic", "Run.UpdateService", REFUSED, 2), *rules])
    return [_publish(rig, SHORT)]


def _abort_queue(rig: Rig, rules: Sequence[Rule]) -> list[str]:
    """The same while a second run waits."""
    first = _publish(rig, "5s")
    rig.at_percent(first, 50)
    rig.arm([Rule("shift_traffic", "Run.UpdateService", REFUSED), *rules])
    return [first, _waiting(rig)]


def _cancel(rig: Rig, rules: Sequence[Rule]) -> list[str]:
    """A person cancels with half of the traffic moved."""
    first = _publish(rig, LONG)
    rig.at_percent(first, 50)
    rig.arm(rules)
    _ask_until_it_counts(rig, "cancel", {"deployment_id": first, "reason": "a test's"})
    return [first]


def _roll_back(rig: Rig, rules: Sequence[Rule]) -> list[str]:
    """A person goes back to the version before."""
    newest = _publish(rig, "", strategy="immediate")
    rig.world.ended(newest, "active")
    rig.world.unlocked(MODEL)
    rig.arm(rules)
    _ask_until_it_counts(rig, "roll_back", {"model_id": MODEL, "reason": "a test's"})
    return [newest]


def _roll_back_over(rig: Rig, rules: Sequence[Rule]) -> list[str]:
    """A person goes back with half of the traffic moved to the next version."""
    first = _publish(rig, LONG)
    rig.at_percent(first, 50)
    rig.arm(rules)
    _ask_until_it_counts(rig, "roll_back", {"model_id": MODEL, "reason": "a test's"})
    return [first]


def _reconcile(rig: Rig, rules: Sequence[Rule]) -> list[str]:
    """The workflow's execution was ended by hand with half of the traffic moved.

    What need not be kept is due to be cleared away once that is repaired.
    """
    first = _publish(rig, LONG)
    rig.at_percent(first, 50)
    rig.world.documents.document(f"models/{MODEL}").update({"collected_at": None})
    found = rig.world.deployment(first) or {}
    rig.world.executions.cancel_execution(name=found["execution"])
    rig.arm(rules)
    rig.ask("reconcile", {"model_id": MODEL})
    return [first]


def _refuse(rig: Rig, rules: Sequence[Rule]) -> list[str]:
    """A message that can never succeed arrives."""
    rig.arm(rules)
    uri = "gs://turnout-local-training/nobody/run-1"
    rig.refused = rig.world.publish(message(UNKNOWN, 1, uri, when="always"))
    return []


_STARTS = frozenset({"Workflows.CreateExecution"})
STORIES = {
    "deploy": Story(_deploy, STEPS, "completed"),
    "deploy, a run waiting": Story(_queue, ("finish_deployment",), "completed", _STARTS),
    "abort": Story(_abort, ("abort_deployment",), "as before"),
    "abort, a run waiting": Story(_abort_queue, ("abort_deployment",), "completed", _STARTS),
    "cancel": Story(_cancel, ("cancel",), "as before"),
    "roll back": Story(_roll_back, ("roll_back",), "as before"),
    "roll back over a rollout": Story(_roll_back_over, ("roll_back",), "as before"),
    "reconcile": Story(_reconcile, ("reconcile",), "as before"),
    "refuse": Story(
        _refuse, ("on_training_completed",), "as before", frozenset({"PubSub.Publish"})
    ),
}


def _publish(rig: Rig, over: str, **deploy: object) -> str:
    plan = deploy or {"strategy": "gradual", "steps_percent": [50, 100], "over": over}
    return rig.publish(**plan)


def _waiting(rig: Rig) -> str:
    second = _publish(rig, "", strategy="immediate")
    until(lambda: rig.model().get("waiting") == second, f"{second} waits")
    return second


def _ask_until_it_counts(rig: Rig, function: str, body: dict[str, str]) -> None:
    """Ask once; again only where nothing came of it, as a person would."""
    token = rig.model()["token"]
    for _ in range(5):
        if not rig.ask(function, body) or rig.model()["token"] != token:
            return
