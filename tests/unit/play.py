"""Everything that may happen to one model at the same time, and what must stay true throughout.

The use cases are the real ones; the ports are the fakes; `scheduling` decides who runs when.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from functions.abort_deployment import undo
from functions.cancel import stop
from functions.check_health import check
from functions.claim_deployment import take
from functions.copy_artifacts import copy
from functions.create_revision import create
from functions.finish_deployment import conclude
from functions.judge_canary import look
from functions.on_training_completed import receive
from functions.prepare_model import prepare
from functions.reconcile import repair
from functions.roll_back import go_back
from functions.shift_traffic import move
from shared.domain.deployment import TRANSITIONS, Deployment, Event, Status, StepName, StepState
from shared.domain.model import Lock, LockKind, approve, pause, resume
from shared.errors import PipelineError
from shared.messages import (
    AbortDeployment,
    Cancel,
    CheckHealth,
    ClaimDeployment,
    CopyArtifacts,
    CreateRevision,
    FinishDeployment,
    JudgeCanary,
    PrepareModel,
    RollBack,
    ShiftTraffic,
)
from shared.ports import Ports
from tests.fakes import Behaviour, FakeRevision, Path, Preparation
from tests.unit.scheduling import Actor, Crash, Scheduler, Watched
from tests.unit.stepping import MODEL, SERVICE, V0, new_world

RETRIES_OF_A_STEP, RETRIES_OF_ABORT = 6, 24
ROUNDS_UNTIL_QUIET = 30
Call = tuple[str, Callable[[], Mapping[str, Any]]]

HEALTHY = "healthy"
FAULTS = (
    "no artifacts",
    "refused",
    "not prepared",
    "crashes",
    "never healthy",
    "wrong digest",
    "not finite",
)
"""What may be wrong with a model."""


@dataclass
class Answer:
    """What a workflow sees of one call: a status (0: the connection was lost) and a body."""

    status: int
    body: Mapping[str, Any]

    @property
    def passing(self) -> bool:
        """Whether the workflow tries again: the rule of `is_transient` in deploy_model.yaml."""
        return self.status in (0, 429) or self.status >= 500


class Play:
    """One model, its actors and its rules."""

    def __init__(
        self,
        fault: str = HEALTHY,
        starts_after: int = 0,
        serves_after: int = 0,
        prepares_after: int = 1,
    ):
        self.world = new_world()
        self.prepares_after = prepares_after
        self.world.cloud_run.starts_after = starts_after
        self.world.cloud_run.serves_after = serves_after
        self.world.state.committed = self._committed
        self.world.executions.started = self._started
        self.world.cloud_run.wrote = self._wrote
        self.scheduler = Scheduler(self.check)
        self.world.state.before_commit = lambda: self.scheduler.point("commit")
        self.ports = self._watched()
        self.fault = fault
        self.faulty_from = 0
        self.runs = 0
        self.requests = 0
        self.workflows: dict[str, Workflow] = {}
        self.unacknowledged: list[tuple[str, bytes]] = []
        self.messages: list[tuple[str, bytes]] = []
        self.by_hand = False
        self._hurrying = self._out_of_turn = False
        self.rolled_back_at = 0
        """The newest token of a rollback that has returned: nothing older may write any more."""
        self._ended: set[str] = set()
        self._claimed: dict[str, str] = {}
        self._decisions: dict[str, Mapping[str, Any]] = {}

    # -- the actors

    def publish(self, strategy: str = "gradual", again: bool = False) -> Actor:
        """Deliver a message about a new run, or about the last one under a new request id."""
        if not again or not self.runs:
            self.runs += 1
            self._train(self.runs)
        self.requests += 1
        message = {
            "schema_version": 1,
            "model_id": MODEL,
            "run_number": self.runs,
            "artifact_uri": f"gs://training/run-{self.runs}",
            "metrics": {"recall_at_100": 0.4 + self.runs / 100},
            "completed_at": "2026-11-24T14:00:00Z",
            "deploy": {
                "when": "always" if again else "if_better",
                "strategy": strategy,
                "steps_percent": [10, 50],
                "over": "6s",
                "request_id": f"request-{self.requests}" if again else "auto",
            },
        }
        delivery = (f"message-{self.requests}", json.dumps(message).encode())
        self.messages.append(delivery)
        return self.deliver(*delivery)

    def deliver(self, message_id: str, data: bytes) -> Actor:
        """Deliver a message, once more where it was delivered before."""

        def work() -> None:
            self.unacknowledged.append((message_id, data))
            receive(data, message_id, self.ports)
            self.scheduler.point("acknowledge")
            self.unacknowledged.remove((message_id, data))

        return self.scheduler.spawn(f"delivery of {message_id}", work)

    def roll_back(self, version: int | None = None) -> Actor:
        """A person goes back."""

        def work() -> None:
            command = RollBack(model_id=MODEL, version=version, reason="bad answers")
            try:
                go_back(command, "ops@example.com", self.ports)
            except PipelineError as refusal:
                self.scheduler.trace.append(f"rollback refused: {refusal}")
                return
            self.note_ended()
            token = actor.facts["token"]
            self.rolled_back_at = max(self.rolled_back_at, token)
            model = self.world.state.model(MODEL)
            if model.token == token and not self.by_hand:
                assert model.lock is None, "a rollback returned and its lock is still there"
                assert self.served == dict(model.desired), "a rollback returned unserved"

        actor = self.scheduler.spawn("rollback", work)
        return actor

    def cancel(self, choice: int) -> Actor:
        """A person cancels one of the deployments."""
        deployments = self.world.state.deployments(MODEL)

        def work() -> None:
            if deployments:
                chosen = deployments[choice % len(deployments)].id
                command = Cancel(deployment_id=chosen, reason="not now")
                try:
                    stop(command, "ops@example.com", self.ports)
                except PipelineError as refusal:
                    self.scheduler.trace.append(f"cancel refused: {refusal}")
                    return
                self.note_ended()

        return self.scheduler.spawn("cancel", work)

    def stray(self, choice: int) -> Actor:
        """A call of a step arrives out of its turn, in the name of the newest execution."""
        self._out_of_turn = True
        deployments = self.world.state.deployments(MODEL)
        claimed = [found for found in deployments if found.execution]

        def work() -> None:
            if claimed:
                workflow = self.workflows[claimed[0].execution]
                name, use_case = workflow.steps[choice % len(workflow.steps)]
                actor.facts |= {"workflow": workflow, "call": name, "orphan": True}
                self.scheduler.trace.append(f"stray call: {name}")
                try:
                    use_case()
                except PipelineError as refusal:
                    self.scheduler.trace.append(f"stray call refused: {refusal}")

        actor = self.scheduler.spawn("stray call", work)
        return actor

    def reconcile(self) -> Actor:
        """The schedule calls `reconcile`."""

        def work() -> None:
            try:
                actor.facts["findings"] = repair(MODEL, self.ports)
            except PipelineError as error:
                actor.facts["findings"] = [f"could not be repaired now: {error}"]
            self.scheduler.trace.append(f"reconcile: {actor.facts['findings']}")

        actor = self.scheduler.spawn("reconcile", work)
        return actor

    def say(self, choice: int) -> Actor:
        """A person pauses, resumes or approves the rollout that is under way."""
        word = (pause, resume, approve)[choice % 3]

        def work() -> None:
            self._say(word)

        return self.scheduler.spawn(f"word: {word.__name__}", work)

    def hurry(self) -> None:
        """Take back a pause, once everybody is to finish."""
        if self._hurrying:
            self._say(resume)

    def _say(self, word: Callable[..., Deployment]) -> None:
        if not self.lock:
            return
        deployment_id, now = self.lock.deployment_id, self.world.clock.now()
        try:
            self.ports.state.change(
                MODEL, lambda book: word(book, deployment_id, now, "ops@example.com", "to see")
            )
        except PipelineError as refusal:
            self.scheduler.trace.append(f"{word.__name__} refused: {refusal}")

    def change_by_hand(self, choice: int) -> None:
        """A person at the console gives traffic to versions that served before, or to LATEST.

        To LATEST only while the newest revision is one that may serve: it is a person's own
        doing otherwise.
        """
        deployments = self.world.state.deployments(MODEL)
        served = sorted(found.cloud_run_revision for found in deployments if found.deployed_at)
        served = served or [V0]
        cloud_run = self.world.cloud_run
        splits: list[dict[str | None, int]] = [{name: 100} for name in served]
        splits += [{a: 70, b: 30} for a in served for b in served if a < b]
        if cloud_run.services[SERVICE].latest_created in served:
            splits.append({None: 100})
        chosen = splits[choice % len(splits)]
        self.by_hand = True
        self.scheduler.trace.append(f"by hand: {chosen}")
        cloud_run.by_hand(SERVICE, chosen)

    def time_out(self, actor: Actor) -> Actor:
        """The workflow stops waiting for the call that the actor makes, and tries it again.

        The call itself goes on: a function that timed out may keep running.
        """
        workflow: Workflow | None = actor.facts.get("workflow")
        if workflow is None or actor.ended or actor.facts.get("orphan"):
            return actor
        actor.facts["orphan"] = True
        actor.name += " (orphan)"
        return workflow.go_on_elsewhere()

    def end_execution(self, choice: int) -> None:
        """An execution dies or is cancelled by hand: no step, no failure path follows."""
        active = [name for name, state in self.world.executions.states.items() if state == "ACTIVE"]
        if active:
            name = active[choice % len(active)]
            self.scheduler.trace.append(f"{name} ended from outside")
            self.world.executions.end(name, "CANCELLED" if choice % 2 else "FAILED", "it died")

    def quiet_down(self) -> None:
        """Let everybody finish, redeliver, wait and reconcile until nothing is left to do."""
        self._hurrying = True
        quiet = 0
        for _ in range(ROUNDS_UNTIL_QUIET):
            self.scheduler.run_all()
            for delivery in list(self.unacknowledged):
                self.unacknowledged.remove(delivery)
                self.deliver(*delivery)
                self.scheduler.run_all()
            self.world.clock.sleep(130)
            actor = self.reconcile()
            self.scheduler.run_all()
            findings = [f for f in actor.facts["findings"] if not f.startswith("drift")]
            quiet = 0 if findings or self.unacknowledged else quiet + 1
            if quiet == 2:
                self._hurrying = False
                return
        raise AssertionError(f"not quiet after {ROUNDS_UNTIL_QUIET} rounds: {findings}")

    # -- the rules

    @property
    def served(self) -> dict[str, int]:
        """The split that users meet."""
        return self.world.cloud_run.services[SERVICE].served

    @property
    def lock(self) -> Lock | None:
        """The model's lock."""
        return self.world.state.model(MODEL).lock

    def check(self) -> None:
        """What holds at every moment."""
        state, served = self.world.state, self.served
        model, deployments = state.model(MODEL), state.deployments(MODEL)
        assert sum(served.values()) == 100, served
        unfit = served.keys() - self._may_serve()
        assert not unfit, f"traffic on {unfit}, which never passed a health check"
        active = [found.id for found in deployments if found.status is Status.ACTIVE]
        assert len(active) <= 1, f"more than one is active: {active}"
        assert active == ([model.active] if model.active else []), "the model names another one"
        rolling = [d.id for d in deployments if d.status is Status.DEPLOYING and not d.waiting]
        held = [model.lock.deployment_id] if model.lock else []
        assert not rolling or rolling == held, f"{rolling} roll out, the lock is {model.lock}"
        waiting = [found.id for found in deployments if found.waiting]
        assert waiting == ([model.waiting] if model.waiting else []), waiting
        assert not waiting or model.lock, f"{waiting} waits for nobody"
        versions = [found.version for found in deployments]
        assert len(set(versions)) == len(versions), f"versions repeat: {versions}"
        if model.lock is None or model.lock.kind is LockKind.ROLLOUT:
            ended = {
                found.cloud_run_revision
                for found in deployments
                if found.status in (Status.FAILED, Status.CANCELLED)
            }
            assert not ended & served.keys(), f"{ended & served.keys()} ended and serves"
        if not self._out_of_turn:
            made = self.world.cloud_run.services[SERVICE].revisions.values()
            unprepared = [one.made_for for one in made if one.made_for and not _prepared(one)]
            assert not unprepared, f"{unprepared} have revisions and were never prepared"
        if model.lock is None and model.desired and not self.by_hand:
            assert served == dict(model.desired), f"{served}, {model.desired} is desired"
        self._check_decisions(deployments)

    def check_quiet(self) -> None:
        """What holds once everything has ended."""
        state = self.world.state
        model, deployments = state.model(MODEL), state.deployments(MODEL)
        assert model.lock is None, f"nobody freed {model.lock}"
        deploying = [found.id for found in deployments if found.status is Status.DEPLOYING]
        assert not deploying, f"{deploying} never ended"
        if not self.by_hand and model.active:
            assert self.served == {state.deployment(model.active).cloud_run_revision: 100}
        if not self.by_hand and not model.active:
            assert self.served == {V0: 100}
        for found in deployments:
            self._check_history(found)

    def _check_history(self, deployment: Deployment) -> None:
        was = ""
        for event in self.world.state.events(deployment.id):
            assert event.actor, event
            assert event.reason, event
            if event.after:
                assert event.before == was, f"{deployment.id} was {was}: {event}"
                was = event.after
        assert was == deployment.status.value
        if deployment.status in (Status.FAILED, Status.CANCELLED):
            assert deployment.reason
        if self._out_of_turn:
            return  # A step that was overtaken by `finish` itself has no end of its own.
        steps = {name: step.state for name, step in deployment.steps.items()}
        assert StepState.RUNNING not in steps.values(), f"{deployment.id} ended: {steps}"
        if deployment.deployed_at:
            assert steps == {name.value: StepState.DONE for name in StepName}, steps

    def _check_decisions(self, deployments: Sequence[Deployment]) -> None:
        for run in range(1, self.runs + 1):
            stored = self.world.state.run(f"{MODEL}-{run}") or {}
            for request_id, decision in stored.get("decisions", {}).items():
                first = self._decisions.setdefault(f"{MODEL}-{run}-{request_id}", decision)
                assert first == decision, f"decided {first}, then {decision}"
        for found in deployments:
            decision = self._decisions[found.id]
            assert decision["deploy"], f"{found.id} is deployed: {decision['why']}"

    def _wrote(self, token: int, split: Mapping[str, int]) -> None:
        actor = self.scheduler.current
        workflow: Workflow | None = actor.facts.get("workflow") if actor else None
        if actor and workflow and actor.facts["call"] != "abort":
            # An earlier rollout, even where it writes what the rollback wants.
            ended = workflow.deployment_id in self._ended
            assert not ended, f"{workflow.deployment_id} has ended and still writes {split}"
            token = self.world.state.deployment(workflow.deployment_id).token or 0
        assert token >= self.rolled_back_at, (
            f"{split} was written under token {token} after the rollback of token "
            f"{self.rolled_back_at} had returned"
        )

    def _may_serve(self) -> set[str]:
        deployments = self.world.state.deployments(MODEL)
        healthy = {found.cloud_run_revision for found in deployments if found.healthy}
        # Nothing but a person's own hand gives v0 traffic again once a version was active.
        ever_active = any(found.deployed_at for found in deployments)
        return healthy if ever_active and not self.by_hand else {V0, *healthy}

    def _committed(
        self, before: Mapping[Path, Any], after: Mapping[Path, Any], events: Sequence[Event]
    ) -> None:
        old, new = before["models", MODEL], after["models", MODEL]
        assert old is None or new.token >= old.token, "the fencing token shrank"
        actor = self.scheduler.current
        if actor and new.lock and new.lock.kind is LockKind.ROLLBACK and new.lock != old.lock:
            actor.facts["token"] = new.token
        for path, deployment in after.items():
            if isinstance(deployment, Deployment):
                _check_transition(before[path], deployment, events)

    # -- around the use cases

    def note_ended(self) -> None:
        """Somebody was told that a rollout has ended: from now on it writes nothing."""
        if self.lock is None or self.lock.kind is LockKind.ROLLOUT:
            self._ended |= {
                found.id
                for found in self.world.state.deployments(MODEL)
                if found.status in (Status.FAILED, Status.CANCELLED)
            }

    def judge_claim(self, deployment_id: str, execution: str) -> None:
        """At most one execution is ever told that a deployment is its own."""
        first = self._claimed.setdefault(deployment_id, execution)
        assert first == execution, f"{deployment_id} was given to {first} and {execution}"

    def _started(self, name: str, deployment: Deployment) -> None:
        self.workflows[name] = Workflow(self, name, deployment.id)
        self.workflows[name].spawn()

    def _train(self, run: int) -> None:
        fault = self.fault if self.faulty_from and run >= self.faulty_from else HEALTHY
        world = self.world
        if fault != "no artifacts":
            for name in ("saved_model/saved_model.pb", "saved_model/variables/data"):
                world.objects.put("training", f"run-{run}/{name}", f"{name} of {run}".encode())
        if fault == "crashes":
            other = world.cloud_run.fate
            world.cloud_run.fate = lambda found: (
                "exit code 3" if found.training_run == run else other(found)
            )
        world.jobs.behaviours[run] = Preparation(
            refused="it has no query_model" if fault == "refused" else "",
            fails="task 0 timed out" if fault == "not prepared" else "",
            reads_until_done=self.prepares_after,
        )
        world.predictions.behaviours[run] = {
            "never healthy": Behaviour(health_status=503, health={"reason": "no"}),
            "wrong digest": Behaviour(health={"artifact_digest": "sha256:0"}),
            "not finite": Behaviour(scores=lambda _: float("nan")),
        }.get(fault, Behaviour())

    def _watched(self) -> Ports:
        point = self.scheduler.point
        world = self.world
        names = (
            *("state", "objects", "cloud_run", "jobs", "executions"),
            *("dead_letters", "predictions", "keys"),
        )
        return world.ports(**{name: Watched(getattr(world, name), name, point) for name in names})


class Workflow:
    """One execution of deploy_model.yaml: its calls in order, its retries, its failure path.

    `tests/workflow/test_deploy_model.py` shows that the YAML itself does the same.
    """

    def __init__(self, play: Play, name: str, deployment_id: str) -> None:
        self._play = play
        self.deployment_id = deployment_id
        self._name = name
        self._request: dict[str, Any] = {"deployment_id": deployment_id, "execution": name}
        self.steps: list[Call] = [
            ("claim", lambda: take(ClaimDeployment(**self._request), play.ports))
        ]
        self._calls = list(self.steps)
        self._tries = 0
        self._turn = 0
        self._error: Mapping[str, Any] | None = None

    def spawn(self) -> Actor:
        """Return the actor that runs the execution from where it is."""
        turn = self._turn
        actor = self._play.scheduler.spawn(self._name, lambda: self._run(turn, actor))
        actor.facts["workflow"] = self
        return actor

    def go_on_elsewhere(self) -> Actor:
        """Stop waiting for the call that runs; its answer comes to nobody."""
        self._turn += 1
        self._took(Answer(0, {}))
        return self.spawn()

    def _run(self, turn: int, actor: Actor) -> None:
        while self._active() and self._turn == turn:
            name, use_case = self._calls[0]
            answer = self._call(name, use_case, actor)
            # An answer that comes too late, or to an execution that has ended, is lost.
            if self._turn == turn and self._active():
                self._took(answer)

    def _active(self) -> bool:
        return self._play.world.executions.state(self._name) == "ACTIVE"

    def _call(self, name: str, use_case: Callable[[], Mapping[str, Any]], actor: Actor) -> Answer:
        scheduler = self._play.scheduler
        actor.facts["call"] = name
        try:
            scheduler.point(f"POST {name}")
            body = use_case()
            scheduler.point(f"{name} answers")
        except PipelineError as error:
            scheduler.trace.append(f"{self._name}: {name} answers {error.http_status} {error}")
            return Answer(error.http_status, error.problem())
        except Crash:
            if scheduler.over:
                raise
            actor.dead = False  # The function's process died; the workflow lives.
            return Answer(0, {})
        return Answer(200, body)

    def _took(self, answer: Answer) -> None:
        if answer.body.get("answer") == "wait":
            self._tries = 0
            self._play.world.clock.time += timedelta(seconds=answer.body["wait_s"])
            self._play.hurry()
        elif answer.status == 200:
            self._tries = 0
            self._succeeded(self._calls.pop(0)[0], answer.body)
        elif answer.passing and self._tries < self._retries():
            self._tries += 1
            self._play.world.clock.time += timedelta(seconds=2**self._tries)
        elif self._error is None:
            self._tries = 0
            self._error = {"code": answer.status, "body": json.dumps(answer.body)}
            self._calls = [("abort", self._abort)]
        else:
            self._end("FAILED")

    def _succeeded(self, name: str, body: Mapping[str, Any]) -> None:
        if name == "claim":
            if not body["claimed"]:
                self._end("SUCCEEDED")
                return
            self._play.judge_claim(self.deployment_id, self._name)
            self._calls = self._rollout(body["stages"])
            self.steps = [*self.steps, *self._calls]
        elif name == "abort":
            self._play.note_ended()
            self._end("FAILED")
        elif not self._calls:
            self._end("SUCCEEDED")

    def _retries(self) -> int:
        return RETRIES_OF_A_STEP if self._error is None else RETRIES_OF_ABORT

    def _end(self, state: str) -> None:
        self._play.scheduler.trace.append(f"{self._name}: ended {state}")
        self._play.world.executions.end(self._name, state, str(self._error or ""))

    def _abort(self) -> Mapping[str, Any]:
        return undo(AbortDeployment(**self._request, error=self._error), self._play.ports)

    def _rollout(self, stages: Sequence[Mapping[str, int]]) -> list[Call]:
        request, ports = self._request, self._play.ports
        calls: list[Call] = [
            ("copy", lambda: copy(CopyArtifacts(**request), ports)),
            ("prepare", lambda: prepare(PrepareModel(**request), ports)),
            ("create", lambda: create(CreateRevision(**request), ports)),
            ("check", lambda: check(CheckHealth(**request), ports)),
        ]
        for stage in stages:
            shift = ShiftTraffic(**request, percent=stage["percent"])
            calls.append((f"shift {stage['percent']}", partial(move, shift, ports)))
            if stage["bake_s"]:
                calls.append(("judge", lambda: look(JudgeCanary(**request), ports)))
        return [*calls, ("finish", lambda: conclude(FinishDeployment(**request), ports))]


def _prepared(revision: FakeRevision) -> bool:
    return bool(revision.made_for and revision.made_for.prepared_digest)


def _check_transition(
    before: Deployment | None, after: Deployment, events: Sequence[Event]
) -> None:
    if before is not None:
        assert before.version == after.version, f"{after.id} changed its version"
        for field in ("execution", "prepare_execution", "prepared_digest"):
            known = getattr(before, field)
            assert known in ("", getattr(after, field)), f"{field} of {after.id} was {known}"
    was = before.status if before else None
    if was is after.status:
        return
    if was is not None:
        assert after.status in TRANSITIONS[was], f"{after.id}: {was} to {after.status}"
    said = [e for e in events if e.deployment_id == after.id and e.after == after.status.value]
    assert said, f"{after.id} became {after.status} and nothing was recorded"
