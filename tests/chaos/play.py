"""Everything that may happen to one model at the same time.

The use cases are the real ones; the ports are the fakes; `scheduling` decides who runs when,
and `invariants` what must stay true throughout.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from google.api_core.exceptions import GoogleAPICallError

from functions.abort_deployment import undo
from functions.announce import announce
from functions.cancel import stop
from functions.check_health import check
from functions.claim_deployment import take
from functions.collect import COLLECTED_EVERY
from functions.copy_artifacts import copy
from functions.create_revision import create
from functions.finish_deployment import conclude
from functions.judge_canary import look
from functions.on_training_completed import receive
from functions.prepare_model import prepare
from functions.reconcile import repair_all
from functions.roll_back import go_back
from functions.shift_traffic import move
from shared.domain.canary import Judgement, Side
from shared.domain.deployment import Deployment, Event
from shared.domain.model import Book, Lock, LockKind, approve, pause, resume, skip
from shared.domain.policy import Checking, Drift, OnInconclusive, Superseding
from shared.errors import PipelineError
from shared.messages import (
    AbortDeployment,
    Canary,
    Cancel,
    CheckHealth,
    ClaimDeployment,
    CopyArtifacts,
    CreateRevision,
    FinishDeployment,
    Hold,
    JudgeCanary,
    Policy,
    PrepareModel,
    Reconcile,
    RollBack,
    ShiftTraffic,
)
from shared.ports import JudgePorts
from tests.chaos.invariants import Invariants
from tests.chaos.messages import POISON, STEPS_PERCENT, training_completed
from tests.chaos.scheduling import Actor, Crash, Scheduler, Watched
from tests.fakes import Behaviour, FakeRevision, FakeService, Path, Preparation
from tests.unit.stepping import MODEL, SERVICE, V0, new_world

RETRIES_OF_A_STEP, RETRIES_OF_ABORT = 6, 24
ROUNDS_UNTIL_QUIET = 30
PORTS = (
    *("state", "objects", "cloud_run", "jobs", "executions"),
    *("dead_letters", "events", "predictions", "keys"),
)
LEFT_AS_IT_IS = "drift, left as it is"
POLLED_EVERY_S = 60.0
"""How long an execution sleeps between two looks at a stage: longer than it is told to."""
FAILURES = (PipelineError, GoogleAPICallError)
"""What a use case may end with: its own refusals, and what Google's clients raise."""
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


@dataclass(frozen=True)
class Scene:
    """What a play begins with: `history` active versions, and how its world behaves.

    `fault` is what is wrong with the runs after those; the others count looks of somebody who
    waits: until a revision is known, until a split is served, until a preparation is done.
    """

    history: int = 2
    fault: str = HEALTHY
    starts_after: int = 0
    serves_after: int = 0
    prepares_after: int = 1
    judge: str = "off"
    hold: bool = False
    superseding: Superseding = Superseding.QUEUE
    drift: Drift = Drift.REPORT
    keeps: int = 5

    @property
    def policy(self) -> Policy:
        """The model's policy."""
        gives_up = self.judge == "inconclusive, abort"
        return Policy(
            canary=Canary(
                judge=Checking.OFF if self.judge == "off" else Checking.GATE,
                warm_up_s=0,
                metrics_lag_s=0,
                inconclusive_for_s=180,
                on_inconclusive=OnInconclusive.ABORT if gives_up else OnInconclusive.HOLD,
            ),
            hold=Hold(at_percent=STEPS_PERCENT[:1] if self.hold else (), limit_s=300),
            superseding=self.superseding,
            drift=self.drift,
            keep_versions=self.keeps,
            keep_artifacts=self.keeps + 2,
        )


JUDGES = ("off", "pass", "fail", "inconclusive, hold", "inconclusive, abort")


class Measured:
    """What Monitoring shows of the scene's revisions: nothing where it is inconclusive."""

    def __init__(self, scene: Scene, service: FakeService) -> None:
        self._scene = scene
        self._service = service

    def window(
        self, service: str, _begin: datetime, _block_s: int, blocks: int
    ) -> Mapping[str, Sequence[Side]]:
        """Return each revision's blocks; those of new runs fail where the scene says so."""
        assert service == SERVICE
        if self._scene.judge.startswith("inconclusive"):
            return {}
        return {
            name: [Side(1000, 900 if self._fails(made) else 0)] * blocks
            for name, made in self._service.revisions.items()
        }

    def _fails(self, made: FakeRevision) -> bool:
        is_new = made.made_for and made.made_for.training_run > self._scene.history
        return bool(is_new and self._scene.judge == "fail")


@dataclass
class Answer:
    """What a workflow sees of one call: a status (0: the connection was lost) and a body."""

    status: int
    body: Mapping[str, Any]

    @property
    def passing(self) -> bool:
        """Whether the workflow tries again: the rule of `is_transient` in deploy_model.yaml."""
        return self.status in (0, 429) or self.status >= 500


class Judges:
    """No webhook judges here."""

    def ask(self, url: str, facts: Mapping[str, Any]) -> Judgement:
        """Never asked: the scenes' policies name none."""
        raise AssertionError(f"{url} was asked about {facts}")


class Play:
    """One model and its actors."""

    def __init__(self, scene: Scene) -> None:
        self.world = new_world(policy=scene.policy)
        self.scene = scene
        self.world.cloud_run.starts_after = scene.starts_after
        self.world.cloud_run.serves_after = scene.serves_after
        self.rules = Invariants(self)
        self.scheduler = Scheduler(self.rules.always)
        self.happened = self.scheduler.happened
        self.world.state.committed = self._committed
        self.world.state.before_commit = lambda: self.scheduler.point("commit")
        self.world.executions.started = self._started
        self.world.cloud_run.wrote = self._wrote
        self.ports = self.world.ports(
            **{name: Watched(getattr(self.world, name), name, self.scheduler) for name in PORTS}
        )
        measured = Measured(scene, self.world.cloud_run.services[SERVICE])
        watched = Watched(measured, "monitoring", self.scheduler)
        self.judging = JudgePorts(requests=watched, judges=Judges())
        self.faulty: set[int] = set()
        self.runs = 0
        self.requests = 0
        self.workflows: dict[str, Workflow] = {}
        self.messages: dict[str, bytes] = {}
        self.delivered: list[str] = []
        self.acknowledged: set[str] = set()
        self.by_hand = False
        self.out_of_turn = False
        self._hurrying = False

    def history(self) -> None:
        """Bring the versions that were there before to active, one after the other.

        They lie so far apart that what need not be kept is cleared away in between.
        """
        for _ in range(self.scene.history):
            self.publish("immediate")
            self.quiet_down()
            self.world.clock.sleep(COLLECTED_EVERY.total_seconds())
        if self.scene.history:
            self.quiet_down()
        self.scheduler.trace.clear()
        self.happened.clear()

    # -- the actors

    def publish(self, strategy: str = "gradual", again: bool = False) -> Actor:
        """Deliver a message about a new run, or about the last one under a new request id."""
        return self.deliver(self.hold_back(strategy, again))

    def hold_back(self, strategy: str = "gradual", again: bool = False) -> str:
        """Publish such a message, which comes later than others; return its id."""
        if not again or not self.runs:
            self.runs += 1
            self._train(self.runs)
        request_id = f"request-{self.requests + 1}" if again else "auto"
        return self._published(training_completed(self.runs, strategy, request_id))

    def poison(self, choice: int) -> Actor:
        """Deliver a message that can never succeed."""
        return self.deliver(self._published(POISON[choice % len(POISON)]))

    def _published(self, data: bytes) -> str:
        self.requests += 1
        message_id = f"message-{self.requests}"
        self.messages[message_id] = data
        self.happened["message"] += 1
        return message_id

    def deliver(self, message_id: str) -> Actor:
        """Deliver a message, once more where it was delivered before."""

        def work() -> None:
            if message_id in self.delivered:
                self.happened["message again"] += 1
            elif message_id != next(m for m in self.messages if m not in self.delivered):
                self.happened["message out of order"] += 1
            self.delivered = list(dict.fromkeys([*self.delivered, message_id]))
            try:
                outcome = receive(self.messages[message_id], message_id, self.ports)
                self.announce()
            except FAILURES as error:
                self.scheduler.say(f"{message_id} is not acknowledged: {error}")
                return
            self.happened[f"message {outcome}"] += 1
            self.scheduler.hold(lambda: self.rules.acknowledged(message_id))
            self.scheduler.point("acknowledge")
            self.acknowledged.add(message_id)

        return self.scheduler.spawn(f"delivery of {message_id}", work)

    @property
    def unacknowledged(self) -> list[str]:
        """The messages that Pub/Sub delivers again."""
        return [name for name in self.messages if name not in self.acknowledged]

    def roll_back(self, version: int | None = None, check: bool = False) -> Actor:
        """A person goes back."""

        def work() -> None:
            command = RollBack(model_id=MODEL, version=version, reason="bad answers", check=check)
            if self._asked("rollback", lambda: go_back(command, "ops@example.com", self.ports)):
                self.scheduler.hold(lambda: self.rules.rolled_back(actor.facts.get("token")))

        actor = self.scheduler.spawn("rollback", work)
        return actor

    def cancel(self, choice: int) -> Actor:
        """A person cancels one of the deployments."""
        deployments = self.world.state.deployments(MODEL)

        def work() -> None:
            if deployments:
                chosen = deployments[choice % len(deployments)].id
                command = Cancel(deployment_id=chosen, reason="not now")
                if self._asked("cancel", lambda: stop(command, "ops@example.com", self.ports)):
                    self.rules.note_ended()

        return self.scheduler.spawn("cancel", work)

    def stray(self, choice: int) -> Actor:
        """A call of a step arrives out of its turn, in the name of the newest execution."""
        self.out_of_turn = True
        deployments = self.world.state.deployments(MODEL)
        claimed = [found for found in deployments if found.execution]

        def work() -> None:
            if claimed:
                workflow = self.workflows[claimed[0].execution]
                name, use_case = workflow.steps[choice % len(workflow.steps)]
                actor.facts |= {"workflow": workflow, "call": name, "orphan": True}
                self.scheduler.say(f"stray call: {name}")
                self._asked("stray call", use_case)

        actor = self.scheduler.spawn("stray call", work)
        return actor

    def reconcile(self) -> Actor:
        """The schedule calls `reconcile`."""

        def work() -> None:
            try:
                answer = repair_all(Reconcile(model_id=MODEL), self.ports)
                found = answer["findings"].get(MODEL, [])
            except FAILURES as error:
                found = [f"could not be repaired now: {error}"]
            actor.facts["findings"] = found
            for finding in found:
                self.happened[f"reconcile {finding.split()[0].strip(',')}"] += 1
            self.scheduler.say(f"reconcile: {found}")

        actor = self.scheduler.spawn("reconcile", work)
        return actor

    def say(self, choice: int) -> Actor:
        """A person pauses, resumes, approves or skips what the rollout under way does."""
        word = (pause, resume, approve, skip)[choice % 4]
        return self.scheduler.spawn(f"word: {word.__name__}", lambda: self._say(word))

    def hurry(self) -> None:
        """Take back a pause, once everybody is to finish."""
        rolling = self.world.state.model(MODEL).lock if self._hurrying else None
        if rolling and self.world.state.deployment(rolling.deployment_id).paused:
            now = self.world.clock.now()
            self._at_once(lambda book: resume(book, rolling.deployment_id, now, "ops", "go on"))

    def _say(self, word: Callable[..., Deployment]) -> None:
        if not self.lock:
            return
        deployment_id, now = self.lock.deployment_id, self.world.clock.now()
        seen = self.world.state.deployment(deployment_id)
        at = {"percent": seen.traffic_percent} if word is approve else {}
        self._asked(
            word.__name__,
            lambda: self.ports.state.change(
                MODEL,
                lambda book: word(book, deployment_id, now, "ops@example.com", "to see", **at),
            ),
        )

    def _asked(self, what: str, use_case: Callable[[], object]) -> bool:
        """Do what somebody asked for; False where it was refused, or failed."""
        try:
            use_case()
            self.announce()
        except FAILURES as refusal:
            self.scheduler.say(f"{what} refused: {refusal}")
            self.happened[f"{what} refused"] += isinstance(refusal, PipelineError)
            return False
        self.happened[what] += 1
        return True

    def announce(self) -> None:
        """Tell others what was recorded, as every function does at its end."""
        if self.world.state.take_news():
            announce(self.ports)

    # -- what comes from elsewhere

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
        self.by_hand = self.scheduler.changed = True
        self.happened["traffic changed by hand"] += 1
        self.scheduler.say(f"by hand: {chosen}")
        cloud_run.by_hand(SERVICE, chosen)

    def touch_service(self) -> None:
        """Somebody changes a label of the service: all etags that were read are old."""
        self.world.cloud_run.services[SERVICE].etag += 1
        self.happened["service changed by others"] += 1

    def touch_model(self) -> None:
        """Another transaction of the model commits: those that are under way run again."""
        self._at_once(lambda _: None)

    def _at_once(self, change: Callable[[Book], object]) -> None:
        """Change the model in between, without any point of the scheduler."""
        before_commit = self.world.state.before_commit
        self.world.state.before_commit = lambda: None
        self.world.state.change(MODEL, change)
        self.world.state.before_commit = before_commit

    def time_out(self, actor: Actor) -> Actor:
        """The workflow stops waiting for the call that the actor makes, and tries it again.

        The call itself goes on: a function that timed out may keep running.
        """
        workflow: Workflow | None = actor.facts.get("workflow")
        if workflow is None or actor.ended or actor.facts.get("orphan"):
            return actor
        actor.facts["orphan"] = True
        actor.name += " (orphan)"
        self.happened["call timed out, and goes on"] += 1
        return workflow.go_on_elsewhere()

    def end_execution(self, choice: int) -> None:
        """An execution dies or is cancelled by hand: no step, no failure path follows."""
        active = [name for name, state in self.world.executions.states.items() if state == "ACTIVE"]
        if active:
            name = active[choice % len(active)]
            self.scheduler.say(f"{name} ended from outside")
            self.happened["execution ended from outside"] += 1
            self.world.executions.end(name, "CANCELLED" if choice % 2 else "FAILED", "it died")

    def quiet_down(self) -> None:
        """Let everybody finish, redeliver, wait and reconcile until nothing is left to do."""
        self._hurrying = True
        self.scheduler.outages.clear()
        quiet = 0
        for _ in range(ROUNDS_UNTIL_QUIET):
            self.scheduler.run_all()
            for message_id in self.unacknowledged:
                self.deliver(message_id)
                self.scheduler.run_all()
            self.world.clock.sleep(130)
            actor = self.reconcile()
            self.scheduler.run_all()
            findings = [f for f in actor.facts["findings"] if not f.startswith(LEFT_AS_IT_IS)]
            quiet = 0 if findings or self.unacknowledged else quiet + 1
            if quiet == 2:
                self._hurrying = False
                return
        raise AssertionError(f"not quiet after {ROUNDS_UNTIL_QUIET} rounds: {findings}")

    def note_ends(self) -> None:
        """Count what can only be told from the deployments that are left."""
        state = self.world.state
        self.happened["transaction conflict"] += state.conflicts
        for found in state.deployments(MODEL):
            self.happened["rollout replaced"] += found.reason.startswith("replaced by")
            self.happened["version deployed again"] += bool(found.redeploys and found.deployed_at)
            self.happened[f"deployment {found.status}"] += 1

    # -- what the fakes tell

    @property
    def served(self) -> dict[str, int]:
        """The split that users meet."""
        return self.world.cloud_run.services[SERVICE].served

    @property
    def lock(self) -> Lock | None:
        """The model's lock."""
        return self.world.state.model(MODEL).lock

    def _committed(
        self, before: Mapping[Path, Any], after: Mapping[Path, Any], events: Sequence[Event]
    ) -> None:
        self.scheduler.changed = True
        self.scheduler.hold(lambda: self.rules.committed(before, after, events))
        new, old = after["models", MODEL], before["models", MODEL]
        actor = self.scheduler.current
        taken = new.lock and new.lock.kind is LockKind.ROLLBACK
        if actor and taken and new.lock != (old and old.lock):
            actor.facts["token"] = new.token

    def _wrote(self, token: int, split: Mapping[str, int]) -> None:
        actor = self.scheduler.current
        workflow: Workflow | None = actor.facts.get("workflow") if actor else None
        rollout = ""
        if actor and workflow and actor.facts["call"] != "abort":
            # An earlier rollout, even where it writes what the rollback wants.
            rollout = workflow.deployment_id
        self.scheduler.hold(lambda: self.rules.wrote(token, split, rollout))

    def _started(self, name: str, deployment: Deployment) -> None:
        self.workflows[name] = Workflow(self, name, deployment.id)
        self.workflows[name].spawn()

    def _train(self, run: int) -> None:
        fault = self.scene.fault if run > self.scene.history else HEALTHY
        if fault != HEALTHY:
            self.faulty.add(run)
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
            reads_until_done=self.scene.prepares_after,
        )
        world.predictions.behaviours[run] = {
            "never healthy": Behaviour(health_status=503, health={"reason": "no"}),
            "wrong digest": Behaviour(health={"artifact_digest": "sha256:0"}),
            "not finite": Behaviour(scores=lambda _: float("nan")),
        }.get(fault, Behaviour())


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
            self._play.announce()
            scheduler.point(f"{name} answers")
        except PipelineError as error:
            scheduler.say(f"{self._name}: {name} answers {error.http_status} {error}")
            return Answer(error.http_status, error.problem())
        except GoogleAPICallError as error:
            scheduler.say(f"{self._name}: {name} answers 500 {error}")
            return Answer(500, {"detail": f"{type(error).__name__} in {name}"})
        except Crash:
            if scheduler.over:
                raise
            actor.dead = False  # The function's process died; the workflow lives.
            return Answer(0, {})
        return Answer(200, body)

    def _took(self, answer: Answer) -> None:
        said = answer.body.get("answer")
        if said:
            self._play.happened[f"{self._calls[0][0]} says {said}"] += 1
        if said in ("wait", "hold"):
            self._tries = 0
            wait_s = max(answer.body["wait_s"], POLLED_EVERY_S)
            self._play.world.clock.time += timedelta(seconds=wait_s)
            self._play.hurry()
        elif said == "abort":
            self._fail(answer)
        elif answer.status == 200:
            self._tries = 0
            self._succeeded(self._calls.pop(0)[0], answer.body)
        elif answer.passing and self._tries < self._retries():
            self._tries += 1
            self._play.happened["step tried again"] += 1
            self._play.world.clock.time += timedelta(seconds=2**self._tries)
        elif self._error is None:
            self._fail(answer)
        else:
            self._end("FAILED")

    def _fail(self, answer: Answer) -> None:
        self._tries = 0
        self._error = {"code": answer.status, "body": json.dumps(answer.body)}
        self._calls = [("abort", self._abort)]

    def _succeeded(self, name: str, body: Mapping[str, Any]) -> None:
        if name == "claim":
            if not body["claimed"]:
                self._play.happened["second execution turned away"] += 1
                self._end("SUCCEEDED")
                return
            self._play.scheduler.hold(
                lambda: self._play.rules.claimed(self.deployment_id, self._name)
            )
            self._calls = self._rollout(body["stages"])
            self.steps = [*self.steps, *self._calls]
        elif name == "abort":
            self._play.rules.note_ended()
            self._end("FAILED")
        elif not self._calls:
            self._end("SUCCEEDED")

    def _retries(self) -> int:
        return RETRIES_OF_A_STEP if self._error is None else RETRIES_OF_ABORT

    def _end(self, state: str) -> None:
        self._play.scheduler.say(f"{self._name}: ended {state}")
        self._play.world.executions.end(self._name, state, str(self._error or ""))

    def _abort(self) -> Mapping[str, Any]:
        return undo(AbortDeployment(**self._request, error=self._error), self._play.ports)

    def _judge(self) -> Mapping[str, Any]:
        return look(JudgeCanary(**self._request), self._play.ports, self._play.judging)

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
                calls.append(("judge", self._judge))
        return [*calls, ("finish", lambda: conclude(FinishDeployment(**request), ports))]
