"""`python -m benchmarks.scale`: ten thousand models, a thousand messages a second for a minute.

The functions' own code runs on the tests' fakes; time is simulated. What is modelled: how many
instances each function has, how many executions run at once, what Cloud Run lets a project write
in a minute, and how long each call takes. A use case runs at one instant of simulated time (what
may happen between its calls is what `make chaos` tries), and then takes as long as it waited
plus the time of its calls.

Afterwards every message is accounted for: what it asked for was deployed, listed by the gate,
passed by a newer run, or failed with a reason; exactly one of these, once.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import heapq
import io
import itertools
import json
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from google.api_core.exceptions import GoogleAPICallError, ResourceExhausted, TooManyRequests
from rich.console import Console
from rich.table import Table

from functions.abort_deployment import undo
from functions.check_health import check
from functions.claim_deployment import take
from functions.copy_artifacts import copy
from functions.create_revision import create
from functions.finish_deployment import conclude
from functions.on_training_completed import receive
from functions.prepare_model import prepare
from functions.reconcile import repair
from functions.shift_traffic import move
from shared.domain.deployment import Deployment, Status
from shared.errors import PipelineError
from shared.messages import (
    AbortDeployment,
    CheckHealth,
    ClaimDeployment,
    CopyArtifacts,
    CreateRevision,
    FinishDeployment,
    ModelDeclaration,
    PrepareModel,
    ShiftTraffic,
)
from tests.fakes import Behaviour, Preparation, World

SEED = 1
RETRIES, RETRIES_OF_ABORT = 6, 24
RETRIES_OF_QUOTA, QUOTA_PAUSE_S = 20, 60.0
"""How often the workflow begins its retries anew where a quota is used up."""
CALL_S = 0.15
"""A call of a function without its waits: some ten calls of Firestore and Cloud Run."""
LASTS_S = {"copy": 1.0, "prepare": 3.6, "create": 1.0, "check": 3.0}
"""What the steps take beside that, rounded up from what the local cloud takes."""
REDELIVERED_AFTER_S = 10.0
RECONCILED_EVERY_S = 300.0
DUPLICATES = 0.05


@dataclass(frozen=True)
class Quotas:
    """What Google Cloud allows in one region; None is no limit."""

    name: str
    writes_a_minute: int | None
    jobs_at_once: int | None = 1000
    executions_at_once: int = 10_000
    instances: int = 100
    """Of each function, which answers one request at a time."""


class Simulation:
    """Events in simulated time: the seconds since the first message."""

    def __init__(self, world: World, quotas: Quotas) -> None:
        self.world = world
        self.quotas = quotas
        self.now_s = 0.0
        self.refused: Counter[str] = Counter()
        self.slowest_queue: Counter[str] = Counter()
        self._start = world.clock.time
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._free: Counter[str] = Counter()
        self._queues: dict[str, deque[Callable[[], float]]] = {}

    def at(self, when_s: float, what: Callable[[], None]) -> None:
        """Do something at a time."""
        heapq.heappush(self._events, (when_s, next(self._numbers), what))

    def after(self, delay_s: float, what: Callable[[], None]) -> None:
        """Do something later."""
        self.at(self.now_s + delay_s, what)

    def run(self) -> None:
        """Go on until nothing is left to happen."""
        while self._events:
            self.now_s, _, what = heapq.heappop(self._events)
            what()

    def call(self, function: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Have an instance of the function do it as soon as one is free; then go on."""

        def busy() -> float:
            self.world.clock.time = self._start + timedelta(seconds=self.now_s)
            began = self.world.clock.time
            answer = work()
            lasted_s = (self.world.clock.time - began).total_seconds() + CALL_S
            self.after(lasted_s, lambda: then(answer))
            return lasted_s

        queue = self._queues.setdefault(function, deque())
        queue.append(busy)
        self.slowest_queue[function] = max(self.slowest_queue[function], len(queue))
        self._serve(function)

    def _serve(self, function: str) -> None:
        queue = self._queues[function]
        while queue and self._free[function] < self.quotas.instances:
            self._free[function] += 1
            self.after(queue.popleft()(), partial(self._done, function))

    def _done(self, function: str) -> None:
        self._free[function] -= 1
        self._serve(function)


class Metered:
    """A port of which some calls are refused with 429 once the quota is used up."""

    def __init__(self, port: object, take: Callable[[str], None], *calls: str) -> None:
        self._port, self._take, self._calls = port, take, calls

    def __getattr__(self, name: str) -> Any:
        bound = getattr(self._port, name)
        if name not in self._calls:
            return bound

        def metered(*arguments: Any, **named: Any) -> Any:
            self._take(name)
            return bound(*arguments, **named)

        self.__dict__[name] = metered
        return metered


class Region:
    """The models of one region, what arrives for them, and what becomes of it."""

    def __init__(self, models: int, quotas: Quotas) -> None:
        names = [f"model-{number}" for number in range(models)]
        world = World.of(*(_declaration(name) for name in names))
        self.simulation = Simulation(world, quotas)
        self.world, self.quotas = world, quotas
        self.ports = world.ports(
            cloud_run=Metered(world.cloud_run, self._write, "write_traffic", "write_template"),
            jobs=Metered(world.jobs, self._start_job, "start"),
        )
        world.executions.started = self._started
        self.deliveries = 0
        self.acknowledged_s = self.ended_s = 0.0
        self.unacknowledged = 0
        self._written: Counter[int] = Counter()
        self._jobs: list[float] = []
        self._running = 0
        self._backlog: deque[Rollout] = deque()

    def publish(self, model: str, run: int, recall: float) -> bytes:
        """Leave a run's artifacts where training does; return its message."""
        for name in ("saved_model/saved_model.pb", "saved_model/variables/data"):
            self.world.objects.put("training", f"{model}/{run}/{name}", f"{model} {run}".encode())
        # One behaviour for all: none is told from another by its run's number.
        self.world.jobs.behaviours[run] = Preparation(reads_until_done=0)
        self.world.predictions.behaviours[run] = Behaviour()
        return json.dumps(
            {
                "schema_version": 1,
                "model_id": model,
                "run_number": run,
                "artifact_uri": f"gs://training/{model}/{run}",
                "metrics": {"recall_at_100": recall},
                "completed_at": "2026-11-24T14:00:00Z",
            }
        ).encode()

    def deliver(self, message_id: str, data: bytes) -> None:
        """Push a message to its function; again after a while where that fails."""
        self.deliveries += 1
        self.unacknowledged += 1

        def then(outcome: str) -> None:
            self.unacknowledged -= 1
            if outcome:
                self.acknowledged_s = self.simulation.now_s
            else:
                self.simulation.after(REDELIVERED_AFTER_S, lambda: self.deliver(message_id, data))

        self.simulation.call(
            "on_training_completed",
            lambda: _quietly(lambda: receive(data, message_id, self.ports))[1] or "",
            then,
        )

    def reconcile(self) -> None:
        """Repair each model that something holds; come again while there is one, or work."""
        held = [name for name in self.world.state.model_ids() if self.world.state.model(name).lock]
        self.world.clock.time = self.simulation._start + timedelta(seconds=self.simulation.now_s)
        for name in held:
            _quietly(partial(repair, name, self.ports))
        if held or self.unacknowledged:
            self.simulation.after(RECONCILED_EVERY_S, self.reconcile)

    def end(self, execution: str, state: str) -> None:
        """An execution has ended: one that was queued may begin."""
        self.world.executions.end(execution, state)
        self.ended_s = self.simulation.now_s
        self._running -= 1
        if self._backlog:
            self._begin(self._backlog.popleft())

    def _started(self, name: str, deployment: Deployment) -> None:
        rollout = Rollout(self, name, deployment.id)
        if self._running < self.quotas.executions_at_once:
            self._begin(rollout)
        else:
            self._backlog.append(rollout)

    def _begin(self, rollout: Rollout) -> None:
        self._running += 1
        self.simulation.after(0.0, rollout.go_on)

    def _write(self, _: str) -> None:
        minute = int(self.simulation.now_s // 60)
        limit = self.quotas.writes_a_minute
        if limit is not None and self._written[minute] >= limit:
            self._refuse("Cloud Run writes a minute")
        self._written[minute] += 1

    def _start_job(self, _: str) -> None:
        now_s = self.simulation.now_s
        while self._jobs and self._jobs[0] <= now_s:
            heapq.heappop(self._jobs)
        limit = self.quotas.jobs_at_once
        if limit is not None and len(self._jobs) >= limit:
            self._refuse("job executions at once")
        heapq.heappush(self._jobs, now_s + LASTS_S["prepare"])

    def _refuse(self, what: str) -> None:
        self.simulation.refused[what] += 1
        raise ResourceExhausted(f"quota exceeded: {what}")


class Rollout:
    """One execution of deploy_model.yaml with an immediate rollout, and its retries."""

    def __init__(self, region: Region, execution: str, deployment_id: str) -> None:
        self._region, self._execution = region, execution
        request: dict[str, Any] = {"deployment_id": deployment_id, "execution": execution}
        self._request = request
        ports = region.ports
        self._steps: list[tuple[str, Callable[[], Any]]] = [
            ("claim", lambda: take(ClaimDeployment(**request), ports)),
            ("copy", lambda: copy(CopyArtifacts(**request), ports)),
            ("prepare", lambda: prepare(PrepareModel(**request), ports)),
            ("create", lambda: create(CreateRevision(**request), ports)),
            ("check", lambda: check(CheckHealth(**request), ports)),
            ("shift", lambda: move(ShiftTraffic(**request, percent=100), ports)),
            ("finish", lambda: conclude(FinishDeployment(**request), ports)),
        ]
        self._tries = self._pauses = 0
        self._error = ""

    def go_on(self) -> None:
        """Make the next call."""
        name, use_case = self._steps[0]

        def work() -> tuple[int, Any]:
            self._region.world.clock.sleep(LASTS_S.get(name, 0.0))
            return _quietly(use_case)

        self._region.simulation.call(name, work, self._took)

    def _took(self, answer: tuple[int, Any]) -> None:
        status, body = answer
        if status == 200 and not (isinstance(body, dict) and body.get("claimed") is False):
            self._tries = self._pauses = 0
            del self._steps[0]
            if self._steps:
                self.go_on()
            else:
                self._region.end(self._execution, "FAILED" if self._error else "SUCCEEDED")
        elif status == 200:
            self._region.end(self._execution, "SUCCEEDED")
        elif self._passes(status) and self._tries < (RETRIES_OF_ABORT if self._error else RETRIES):
            longest_s = 60.0 if self._error else 30.0
            self._region.simulation.after(min(2.0**self._tries, longest_s), self.go_on)
            self._tries += 1
        elif self._error:
            self._region.end(self._execution, "FAILED")
        elif status == 429 and self._pauses < RETRIES_OF_QUOTA:
            self._tries = 0
            self._pauses += 1
            self._region.simulation.after(QUOTA_PAUSE_S, self.go_on)
        else:
            self._tries, self._error = 0, str(body)
            self._steps = [("abort", self._abort)]
            self.go_on()

    @staticmethod
    def _passes(status: int) -> bool:
        return status == 429 or status >= 500

    def _abort(self) -> Any:
        command = AbortDeployment(**self._request, error={"message": self._error})
        return undo(command, self._region.ports)


def _quietly(use_case: Callable[[], Any]) -> tuple[int, Any]:
    """Return status and body as a function would answer; what it logs is left out."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return 200, use_case()
    except PipelineError as error:
        return error.http_status, error
    except TooManyRequests as error:
        return 429, error
    except GoogleAPICallError as error:
        return 500, error


def _declaration(model_id: str) -> ModelDeclaration:
    return ModelDeclaration(
        model_id=model_id, image="serving", service_account="serving@turnout-test"
    )


def simulate(models: int, messages: int, a_second: int, quotas: Quotas) -> Region:
    """Let them arrive and everything end; return the region as it is then."""
    random_ = random.Random(SEED)
    region = Region(models, quotas)
    runs: Counter[str] = Counter()
    published: list[tuple[str, bytes]] = []
    for number in range(messages):
        if published and random_.random() < DUPLICATES:
            delivery = random_.choice(published[-10_000:])
        else:
            model = f"model-{random_.randrange(models)}"
            runs[model] += 1
            recall = random_.uniform(0.3, 0.5)
            delivery = f"message-{number}", region.publish(model, runs[model], recall)
            published.append(delivery)
        # They overtake each other: each is up to two seconds late.
        arrives_s = number / a_second + random_.uniform(0, 2)
        region.simulation.at(arrives_s, partial(region.deliver, *delivery))
    region.simulation.at(RECONCILED_EVERY_S, region.reconcile)
    region.simulation.run()
    region.published = published
    return region


def account(region: Region) -> Counter[str]:
    """Return what became of the messages' requests; AssertionError where one is not once."""
    state = region.world.state
    became: Counter[str] = Counter()
    asked = [json.loads(data) for _, data in region.published]
    for message in asked:
        model, run = message["model_id"], message["run_number"]
        stored = state.run(f"{model}-{run}")
        assert stored, f"run {run} of {model} is lost"
        assert list(stored["decisions"]) == ["auto"], f"{model} {run}: {stored['decisions']}"
        of_run = [found for found in state.deployments(model) if found.training_run == run]
        assert len(of_run) == stored["decisions"]["auto"]["deploy"], f"{model} {run}: {of_run}"
        became[_what(of_run[0]) if of_run else "listed by the gate"] += 1
    for model in {message["model_id"] for message in asked}:
        _check_model(region, model)
    assert sum(became.values()) == len(region.published)
    assert not region.unacknowledged
    return became


def _what(deployment: Deployment) -> str:
    if deployment.deployed_at:
        return "deployed"
    ended = {Status.CANCELLED: "passed by a newer run", Status.FAILED: "failed, with its reason"}
    assert deployment.reason, f"{deployment.id} ended without a reason"
    return ended[deployment.status]


def _check_model(region: Region, name: str) -> None:
    state = region.world.state
    model, deployments = state.model(name), state.deployments(name)
    service = region.world.cloud_run.services[f"model-serving-{name}"]
    assert model.lock is None, f"{name} is held by {model.lock}"
    assert len({found.version for found in deployments}) == len(deployments), name
    assert [found.id for found in deployments if found.status is Status.ACTIVE] == (
        [model.active] if model.active else []
    )
    active = state.deployment(model.active) if model.active else None
    expected = active.cloud_run_revision if active else f"model-serving-{name}-v0-1"
    assert service.served == {expected: 100}, f"{name} serves {service.served}"


SCENARIOS = (
    Quotas("60 writes/min", writes_a_minute=60),
    Quotas("60,000 writes/min", writes_a_minute=60_000),
    Quotas("and 1,000 instances", writes_a_minute=60_000, instances=1000),
)


def main() -> None:
    """Simulate each scenario, account for every message, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=60_000)
    parser.add_argument("--a-second", type=int, default=1000)
    asked = parser.parse_args()
    table = Table("", *(quotas.name for quotas in SCENARIOS), box=None)
    columns = []
    # What is older than a moment is never garbage, and there are millions of it.
    gc.set_threshold(100_000, 20, 1_000_000)
    for quotas in SCENARIOS:
        began = time.monotonic()
        region = simulate(asked.models, asked.messages, asked.a_second, quotas)
        columns.append(_column(region))
        print(f"{quotas.name}: simulated in {time.monotonic() - began:.0f} s")
    for row in dict.fromkeys(name for column in columns for name in column):
        table.add_row(row, *(column.get(row, "0") for column in columns))
    Console(width=110).print(table)


def _column(region: Region) -> dict[str, str]:
    became = account(region)
    simulation = region.simulation
    queue, longest = simulation.slowest_queue.most_common(1)[0]
    return {
        "requests": f"{len(region.published):,}",
        "deliveries": f"{region.deliveries:,}",
        **{name: f"{count:,}" for name, count in sorted(became.items())},
        "lost, or met twice": "0",
        "last message acknowledged": f"{region.acknowledged_s:,.0f} s",
        "last execution ended": f"{region.ended_s:,.0f} s",
        "nothing left to do": f"{simulation.now_s:,.0f} s",
        "longest queue": f"{longest:,} ({queue})",
        **{f"429: {what}": f"{count:,}" for what, count in simulation.refused.items()},
    }


if __name__ == "__main__":
    main()
