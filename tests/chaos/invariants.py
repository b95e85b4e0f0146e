"""The eight invariants of a model's rollouts, and when each is checked.

Always: at every call of a port after which something may be different. At a commit: with each
transaction's documents before and after. At a write: when Cloud Run takes a split. When told:
when a caller was answered that something is so. At the end: when everybody has finished.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared.domain.deployment import TRANSITIONS, Deployment, Event, Status, StepName, StepState
from shared.domain.model import LockKind, Model, previous
from shared.domain.policy import Drift
from tests.chaos.messages import POISON, deployment_of
from tests.fakes import FakeRevision, Path
from tests.unit.stepping import MODEL, SERVICE, V0

if TYPE_CHECKING:
    from tests.chaos.play import Play

INVARIANTS: Mapping[int, tuple[str, Mapping[str, str]]] = {
    1: (
        "Traffic sums to 100 and goes to healthy revisions only, or to v0 before there is one.",
        {"always": "_traffic_is_fit"},
    ),
    2: (
        "At most one deployment is active, and at most one rollout in progress.",
        {"always": "_one_at_a_time", "at a commit": "_token_grows", "at the end": "_all_ended"},
    ),
    3: (
        "A training run is deployed at most once per request, however often its message comes.",
        {"always": "_decided_once", "when told": "claimed"},
    ),
    4: (
        "After a rollback returns, no earlier rollout ever moves traffic again.",
        {"at a write": "wrote", "when told": "rolled_back"},
    ),
    5: (
        "Every failure ends with the traffic that was there before, and a reason.",
        {
            "always": "_ended_serves_nothing",
            "at a commit": "_snapshot_is_wanted",
            "at the end": "_desired_is_served",
        },
    ),
    6: (
        "No request fails because traffic moved.",
        {"always": "_every_share_answers", "at a commit": "_needed_stays"},
    ),
    7: (
        "Every transition is recorded with who, when and why; versions never repeat.",
        {
            "always": "_versions_differ",
            "at a commit": "_transition_is_recorded",
            "at the end": "_history_is_whole",
        },
    ),
    8: (
        "What is not acknowledged is retried; what cannot succeed is in the dead letters.",
        {"when told": "acknowledged", "at the end": "_no_message_is_lost"},
    ),
}
"""Number: the words, and which method of `Invariants` checks it when."""


MOVES_NOTHING_BACK = (LockKind.ROLLOUT, LockKind.UPKEEP)
"""Under these locks, and under none, the traffic of what ended is back where it was."""


class Invariants:
    """The rules of one play; each method raises an AssertionError where its rule is broken."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._state = play.world.state
        self._service = play.world.cloud_run.services[SERVICE]
        self._rolled_back_at = 0
        self._stopped: set[str] = set()
        self._claimed: dict[str, str] = {}
        self._decisions: dict[str, Mapping[str, Any]] = {}
        self._always = self._rules("always")
        self._at_the_end = self._rules("at the end")

    def _rules(self, when: str) -> list[tuple[int, Callable[[Model, Sequence[Deployment]], None]]]:
        return [
            (number, getattr(self, checks[when]))
            for number, (_, checks) in INVARIANTS.items()
            if when in checks
        ]

    def always(self) -> None:
        """Check what holds at every moment."""
        self._each(self._always)

    def at_the_end(self) -> None:
        """Check what holds once everybody has finished."""
        self._each(self._always)
        self._each(self._at_the_end)

    def _each(
        self, rules: Sequence[tuple[int, Callable[[Model, Sequence[Deployment]], None]]]
    ) -> None:
        model, deployments = self._state.model(MODEL), self._state.deployments(MODEL)
        for number, rule in rules:
            try:
                rule(model, deployments)
            except AssertionError as broken:
                broken.add_note(f"invariant {number}: {INVARIANTS[number][0]}")
                raise

    # -- 1

    def _traffic_is_fit(self, _: Model, deployments: Sequence[Deployment]) -> None:
        served = self._service.served
        assert sum(served.values()) == 100, served
        healthy = {found.cloud_run_revision for found in deployments if found.healthy}
        # Nothing but a person's own hand gives v0 traffic again once a version was active.
        ever_active = any(found.deployed_at for found in deployments)
        fit = healthy if ever_active and not self._play.by_hand else {V0, *healthy}
        unfit = served.keys() - fit
        assert not unfit, f"traffic on {unfit}, which never passed a health check"
        bad = {d.cloud_run_revision for d in deployments if d.training_run in self._play.faulty}
        assert not bad & served.keys(), f"traffic on {bad & served.keys()}, whose model is bad"
        if not self._play.out_of_turn:
            made = self._service.revisions.values()
            unprepared = [one.made_for for one in made if one.made_for and not _prepared(one)]
            assert not unprepared, f"{unprepared} have revisions and were never prepared"

    # -- 2

    def _one_at_a_time(self, model: Model, deployments: Sequence[Deployment]) -> None:
        active = [found.id for found in deployments if found.status is Status.ACTIVE]
        assert len(active) <= 1, f"more than one is active: {active}"
        assert active == ([model.active] if model.active else []), "the model names another one"
        rolling = [d.id for d in deployments if d.status is Status.DEPLOYING and not d.waiting]
        held = [model.lock.deployment_id] if model.lock else []
        assert not rolling or rolling == held, f"{rolling} roll out, the lock is {model.lock}"
        waiting = [found.id for found in deployments if found.waiting]
        assert waiting == ([model.waiting] if model.waiting else []), waiting
        assert not waiting or model.lock, f"{waiting} waits for nobody"

    def _token_grows(self, before: Model | None, after: Model) -> None:
        assert before is None or after.token >= before.token, "the fencing token shrank"
        taken = after.lock and (before is None or after.lock != before.lock)
        assert not taken or before is None or after.token > before.token, "a lock without a token"

    def _all_ended(self, model: Model, deployments: Sequence[Deployment]) -> None:
        assert model.lock is None, f"nobody freed {model.lock}"
        deploying = [found.id for found in deployments if found.status is Status.DEPLOYING]
        assert not deploying, f"{deploying} never ended"

    # -- 3

    def _decided_once(self, _: Model, deployments: Sequence[Deployment]) -> None:
        for run in range(1, self._play.runs + 1):
            stored = self._state.run(f"{MODEL}-{run}") or {}
            for request_id, decision in stored.get("decisions", {}).items():
                first = self._decisions.setdefault(f"{MODEL}-{run}-{request_id}", decision)
                assert first == decision, f"decided {first}, then {decision}"
        for found in deployments:
            if found.redeploys:
                continue  # A person asked for it, by going back.
            decision = self._decisions[found.id]
            assert decision["deploy"], f"{found.id} is deployed: {decision['why']}"
        requests = [(found.training_run, found.request_id) for found in deployments]
        assert len(set(requests)) == len(requests), f"a request was met twice: {requests}"

    def claimed(self, deployment_id: str, execution: str) -> None:
        """Check that at most one execution is ever told that a deployment is its own."""
        first = self._claimed.setdefault(deployment_id, execution)
        assert first == execution, f"{deployment_id} was given to {first} and {execution}"

    # -- 4

    def wrote(self, token: int, split: Mapping[str, int], rollout: str) -> None:
        """Check a write of traffic; `rollout` is the deployment whose step made it, if any."""
        if rollout:
            assert rollout not in self._stopped, f"{rollout} has ended and still writes {split}"
            token = self._state.deployment(rollout).token or 0
        assert token >= self._rolled_back_at, (
            f"{split} was written under token {token} after the rollback of token "
            f"{self._rolled_back_at} had returned"
        )

    def rolled_back(self, token: int | None) -> None:
        """Check a rollback that has returned; from now on nothing older may write.

        Without a token it deploys the version again: then the rollouts before it have ended.
        """
        self.note_ended()
        if token is None:
            return
        self._rolled_back_at = max(self._rolled_back_at, token)
        model = self._state.model(MODEL)
        if model.token == token and not self._play.by_hand:
            assert model.lock is None, "a rollback returned and its lock is still there"
            assert self._service.served == dict(model.desired), "a rollback returned unserved"

    def note_ended(self) -> None:
        """Somebody was told that a rollout has ended: from now on it writes nothing."""
        lock = self._state.model(MODEL).lock
        if lock is None or lock.kind in MOVES_NOTHING_BACK:
            self._stopped |= {
                found.id
                for found in self._state.deployments(MODEL)
                if found.status in (Status.FAILED, Status.CANCELLED)
            }

    # -- 5

    def _ended_serves_nothing(self, model: Model, deployments: Sequence[Deployment]) -> None:
        ended = [d for d in deployments if d.status in (Status.FAILED, Status.CANCELLED)]
        assert all(found.reason for found in ended), "one ended without a reason"
        if model.lock is None or model.lock.kind in MOVES_NOTHING_BACK:
            still = {found.cloud_run_revision for found in ended} & self._service.served.keys()
            assert not still, f"{still} ended and serves"
        if model.lock is None and model.desired and not self._play.by_hand:
            served = self._service.served
            assert served == dict(model.desired), f"{served}, {model.desired} is desired"

    def _snapshot_is_wanted(self, model: Model, after: Deployment) -> None:
        lock = model.lock
        aborts = lock and lock.kind is LockKind.ABORT and lock.deployment_id == after.id
        if aborts and after.snapshot:
            assert model.desired == after.snapshot, f"{after.id} left {model.desired}"

    def _desired_is_served(self, model: Model, _: Sequence[Deployment]) -> None:
        if self._play.by_hand:
            # What a person changed is what the next rollout went back to; or it was put back.
            repaired = self._play.scene.drift is Drift.REPAIR and model.active
            assert not repaired or self._service.served == dict(model.desired)
            return
        active = self._state.deployment(model.active).cloud_run_revision if model.active else V0
        assert self._service.served == {active: 100}, self._service.served

    # -- 6

    def _every_share_answers(self, _: Model, __: Sequence[Deployment]) -> None:
        """Ask what users ask, of each revision that has a share: v0 alone may say 503."""
        for revision in self._service.served:
            found = self._service.revisions.get(revision)
            assert found, f"traffic on {revision}, which is gone"
            assert found.state == "ready", f"traffic on {revision}, which is {found.state}"

    def _needed_stays(self, model: Model, before: Deployment | None, after: Deployment) -> None:
        """Check what is cleared away: neither what serves nor what a rollback would go to."""
        if not after.revision_gone or (before and before.revision_gone):
            return
        active = self._state.deployment(model.active) if model.active else None
        back = previous(active, self._state.deployments(MODEL))
        assert after.id not in (model.active, back.id if back else ""), f"{after.name} is needed"
        assert after.cloud_run_revision not in model.desired, f"{after.name} has traffic"

    # -- 7

    def _versions_differ(self, _: Model, deployments: Sequence[Deployment]) -> None:
        versions = [found.version for found in deployments]
        assert len(set(versions)) == len(versions), f"versions repeat: {versions}"

    def _transition_is_recorded(
        self, before: Deployment | None, after: Deployment, events: Sequence[Event]
    ) -> None:
        if before is not None:
            assert before.version == after.version, f"{after.id} changed its version"
            for field in ("execution", "prepare_execution", "prepared_digest", "snapshot"):
                known = getattr(before, field)
                assert not known or known == getattr(after, field), f"{field} was {known}"
        was = before.status if before else None
        if was is after.status:
            return
        if was is not None:
            assert after.status in TRANSITIONS[was], f"{after.id}: {was} to {after.status}"
        said = [e for e in events if e.deployment_id == after.id and e.after == after.status.value]
        assert said, f"{after.id} became {after.status} and nothing was recorded"

    def _history_is_whole(self, _: Model, deployments: Sequence[Deployment]) -> None:
        for deployment in deployments:
            was = ""
            for event in self._state.events(deployment.id):
                assert event.actor, event
                assert event.reason, event
                if event.after:
                    assert event.before == was, f"{deployment.id} was {was}: {event}"
                    was = event.after
            assert was == deployment.status.value
            self._check_steps(deployment)
        told = {attributes["ce-id"] for _, attributes in self._play.world.events.messages}
        recorded = sum(len(self._state.events(found.id)) for found in deployments)
        assert not self._state.outbox(1), "a recorded event was announced to nobody"
        assert len(told) == recorded, f"{recorded} events were recorded, {len(told)} announced"

    def _check_steps(self, deployment: Deployment) -> None:
        if self._play.out_of_turn:
            return  # A step that was overtaken by `finish` itself has no end of its own.
        steps = {name: step.state for name, step in deployment.steps.items()}
        assert StepState.RUNNING not in steps.values(), f"{deployment.id} ended: {steps}"
        if deployment.deployed_at:
            assert steps == {name.value: StepState.DONE for name in StepName}, steps

    def committed(
        self, before: Mapping[Path, Any], after: Mapping[Path, Any], events: Sequence[Event]
    ) -> None:
        """Check one transaction: the model and what it wrote, before and after, and its events."""
        model = after["models", MODEL]
        self._token_grows(before["models", MODEL], model)
        for path, deployment in after.items():
            if isinstance(deployment, Deployment):
                self._transition_is_recorded(before[path], deployment, events)
                self._snapshot_is_wanted(model, deployment)
                self._needed_stays(model, before[path], deployment)

    # -- 8

    def acknowledged(self, message_id: str) -> None:
        """Check that what a message asked for is kept, before it is acknowledged."""
        data = self._play.messages[message_id]
        if data in POISON:
            assert self._state.refusals.get(message_id), f"{message_id} left no reason"
            assert message_id in self._dead(), f"{message_id} is not in the dead letters"
            return
        run, request_id, deployment_id = deployment_of(data)
        if (self._state.run(run) or {})["decisions"][request_id]["deploy"]:
            self._state.deployment(deployment_id)  # NotFound: it was lost

    def _no_message_is_lost(self, _: Model, __: Sequence[Deployment]) -> None:
        assert not self._play.unacknowledged, f"{self._play.unacknowledged} wait for ever"
        for message_id in self._play.messages:
            self.acknowledged(message_id)
        good = [m for m, data in self._play.messages.items() if data not in POISON]
        dead = self._dead().intersection(good)
        assert not dead, f"{dead} could succeed and are in the dead letters"

    def _dead(self) -> set[str]:
        letters = self._play.world.dead_letters.messages
        return {attributes["message_id"] for _, attributes in letters}


def _prepared(revision: FakeRevision) -> bool:
    return bool(revision.made_for and revision.made_for.prepared_digest)
