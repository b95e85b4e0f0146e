"""What a training-completed message would do, and why, without doing it."""

from __future__ import annotations

from dataclasses import dataclass, field

from functions.gate import judge
from functions.on_training_completed import (
    admit,
    check_artifacts,
    decided,
    deployment_of,
    entry,
    outcome_of,
    read,
)
from shared.domain.deployment import Deployment, Event, Status, StepName
from shared.domain.model import Lock, Model
from shared.domain.policy import Checking
from shared.domain.quality_gate import Decision
from shared.errors import MessageRefused, NotFound
from shared.messages import ModelDeclaration
from shared.ports import Ports, State


@dataclass(frozen=True)
class Stage:
    """One step of the rollout; `held` where a person has to agree before it is left."""

    percent: int
    bake_s: int
    held: bool


@dataclass(frozen=True)
class Check:
    """One check of the candidate, and whether it may end the rollout (`gate`)."""

    name: str
    checking: Checking
    why: str


@dataclass(frozen=True)
class Plan:
    """What would become of a message, in a word (`outcome`) and a sentence (`why`).

    refused, listed, known (the request has its deployment already), waiting, started, or
    cancelled (a newer run waits). `version` is the one that it would get now. `gate` is None
    where the message is refused before; `decided_before` says that an earlier delivery of
    the same request decided. `waits_for` is the deployment that has the model's lock,
    `replaces` those that would be cancelled.
    """

    outcome: str
    why: str
    model_id: str = ""
    deployment_id: str = ""
    version: str = ""
    gate: Decision | None = None
    decided_before: bool = False
    waits_for: str = ""
    replaces: tuple[str, ...] = ()
    steps: tuple[StepName, ...] = ()
    stages: tuple[Stage, ...] = ()
    checks: tuple[Check, ...] = ()


def plan(data: bytes, ports: Ports) -> Plan:
    """Return what `receive` would do with this message now; nothing is written anywhere.

    The rules are those of `receive`, function by function; only what it writes is left out.
    """
    try:
        message = read(data)
        declaration = admit(message, ports)
        run = ports.state.run(f"{message.model_id}-{message.run_number}")
        if run is not None:
            check_artifacts(message, run)
    except MessageRefused as refusal:
        return Plan("refused", str(refusal))
    earlier = decided(message, run) if run is not None else None
    gate = earlier or judge(message, declaration, ports)
    if not gate.deploy:
        return Plan(
            "listed",
            gate.why,
            model_id=message.model_id,
            gate=gate,
            decided_before=earlier is not None,
        )
    wanted = deployment_of(message, gate, declaration, ports)
    book = Scratch(message.model_id, ports.state)
    before = book.model.lock
    made = entry(wanted, gate, declaration)(book)
    replaces = tuple(
        sorted(
            one.id
            for one in book.changed.values()
            if one.id != made.id and one.status is Status.CANCELLED
        )
    )
    outcome, why = _outcome(made, before, book, gate)
    known = outcome == "known"
    return Plan(
        outcome=outcome,
        why=why,
        model_id=message.model_id,
        deployment_id=made.id,
        version=made.name,
        gate=gate,
        decided_before=earlier is not None,
        waits_for=before.deployment_id if outcome == "waiting" and before else "",
        replaces=replaces,
        steps=() if known else tuple(StepName),
        stages=() if known else _stages(made),
        checks=() if known else _checks(made, declaration),
    )


@dataclass
class Scratch:
    """A transaction's documents that are never written."""

    model_id: str
    state: State
    changed: dict[str, Deployment] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model: Model = self.state.model(self.model_id)

    def find(self, deployment_id: str) -> Deployment | None:
        """Return a deployment as this transaction sees it, or None."""
        try:
            return self.deployment(deployment_id)
        except NotFound:
            return None

    def deployment(self, deployment_id: str) -> Deployment:
        """Return a deployment as this transaction sees it; NotFound where there is none."""
        if deployment_id in self.changed:
            return self.changed[deployment_id]
        return self.state.deployment(deployment_id)

    def put(self, deployment: Deployment) -> None:
        """Keep it for the rest of this plan."""
        self.changed[deployment.id] = deployment

    def record(self, event: Event) -> None:
        """Keep it for the rest of this plan."""
        self.events.append(event)


def _outcome(
    made: Deployment, before: Lock | None, book: Scratch, gate: Decision
) -> tuple[str, str]:
    """Return the outcome and the sentence that explains it."""
    if made.id not in book.changed:
        state = "waiting" if made.waiting else made.status.value
        return "known", f"{made.id} exists already as {made.name} and is {state}"
    if made.status is Status.CANCELLED:
        return "cancelled", made.reason
    outcome = outcome_of(made)
    if outcome == "waiting" and before:
        if before.deployment_id in book.changed:
            over = f"it replaces {before.deployment_id}, whose traffic goes back first"
            return "started", f"{gate.why}; {over}"
        return outcome, f"{gate.why}; it waits for the {before.kind} of {before.deployment_id}"
    return outcome, gate.why


def _stages(made: Deployment) -> tuple[Stage, ...]:
    held = made.policy.hold.at_percent
    return tuple(
        Stage(stage.percent, stage.bake_s, stage.percent in held) for stage in made.plan.stages
    )


def _checks(made: Deployment, declaration: ModelDeclaration) -> tuple[Check, ...]:
    """Return the checks in their order, each with what it looks at."""
    skew, canary = made.policy.skew, made.policy.canary
    bakes = any(stage.bake_s for stage in made.plan.stages)
    judged = (
        f"error rate and latency against live, after {canary.minimum_requests:,} requests a stage"
    )
    return (
        Check("model", Checking.GATE, "the SavedModel loads and keeps its contract"),
        Check(
            "health",
            Checking.GATE,
            f"{len(declaration.golden_customers)} golden customers and an unknown one",
        ),
        Check(
            "skew",
            skew.check,
            f"recall within {skew.tolerance:g} of training's, over at most "
            f"{skew.customers:,} held-out customers",
        ),
        Check(
            "canary",
            canary.judge if bakes else Checking.OFF,
            judged if bakes else "no stage bakes, so none is judged",
        ),
    )
