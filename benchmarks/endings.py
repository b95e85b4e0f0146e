"""Whole rollouts through the pipeline, and the ways they end: finished, rolled back, cancelled."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.pipeline import MODEL
from benchmarks.users import Seen
from localcloud.project import MODELS_FILE
from shared import wiring
from shared.config import TRAINING_TOPIC
from shared.domain.deployment import Deployment, Status
from shared.errors import NotFound
from turnout.calling import call

STEPS_PERCENT = (10, 50, 100)
# Long enough to be met in the middle; those that are to end at 100 % bake for the shorter time.
BAKES_S, BAKES_LONG_S = 2, 60
REACHES_WITHIN_S = 180.0
POLL_S, SETTLE_S = 0.05, 0.5


class NotReached(RuntimeError):
    """A rollout did not come to where it was to be met."""


@dataclass(frozen=True)
class Ending:
    """What ended, which version was left behind ("" for none), and which one has the traffic.

    `asked_at` and `answered_at` are those of the call that ended it (monotonic and Unix time, s).
    """

    kind: str
    left: str
    serves: str
    asked_at: float = 0.0
    answered_at: float = 0.0
    asked_unix: float = 0.0
    answered_unix: float = 0.0

    def last_answer_after_s(self, seen: Seen) -> tuple[float, float]:
        """Return when the version left behind answered last, after the request and the answer.

        In seconds; below zero where it was before. A version never comes back, so its last
        answer of all counts.
        """
        last = seen.last(self.left, since=0.0)
        if last is None:
            raise NotReached(f"{self.left} never answered before its {self.kind}")
        return last - self.asked_at, last - self.answered_at


class Endings:
    """Publishes one trained run again and again, and ends what becomes of it."""

    def __init__(self, run_number: int) -> None:
        self._run = run_number

    def finish(self) -> Ending:
        """Roll out to 100 %."""
        before = wiring.state().model(MODEL).active or ""
        rollout = self._reach(100, STEPS_PERCENT, BAKES_S)
        return Ending("rollout", wiring.state().deployment(before).name, rollout.name)

    def roll_back_live(self, *, check: bool = True) -> Ending:
        """Leave the live version for the one before it."""
        left = wiring.state().deployment(wiring.state().model(MODEL).active or "").name
        return self._roll_back("rollback", left, {"check": check})

    def leave(self, left: str, *, to: int, check: bool) -> Ending:
        """Leave the live version for one that is named by its number."""
        return self._roll_back("rollback", left, {"check": check, "version": to})

    def roll_back_midway(self, percent: int, *, check: bool = True) -> Ending:
        """Leave a version that has so much of the traffic."""
        rollout = self._stay_at(percent)
        return self._roll_back(f"rollback at {percent} %", rollout.name, {"check": check})

    def cancel(self, percent: int) -> Ending:
        """Cancel a rollout that has so much of the traffic."""
        rollout = self._stay_at(percent)
        body = {"deployment_id": rollout.id, "reason": "measured", "requested_by": "benchmark"}
        return _timed(f"cancel at {percent} %", rollout.name, lambda: call("cancel", body))

    def _roll_back(self, kind: str, left: str, how: dict[str, Any]) -> Ending:
        body = {"model_id": MODEL, "reason": "measured", "requested_by": "benchmark", **how}
        return _timed(kind, left, lambda: call("roll_back", body))

    def _stay_at(self, percent: int) -> Deployment:
        """Publish a rollout that begins with so much of the traffic, and bakes long there."""
        steps = tuple(step for step in STEPS_PERCENT if step >= percent)
        return self._reach(percent, steps, BAKES_LONG_S)

    def _reach(self, percent: int, steps: tuple[int, ...], bake_s: int) -> Deployment:
        """Publish, and return the deployment once it has so much of the traffic."""
        request_id = f"ending-{time.time_ns()}"
        run = wiring.state().run(f"{MODEL}-{self._run}")
        assert run is not None
        message = {
            "schema_version": 1,
            "model_id": MODEL,
            "run_number": self._run,
            "artifact_uri": run["artifact_uri"],
            "metrics": run["metrics"],
            "completed_at": datetime.now(UTC).isoformat(),
            "deploy": {
                "when": "always",
                "strategy": "gradual",
                "steps_percent": steps,
                "over": f"{bake_s * (len(steps) - 1)}s",
                "request_id": request_id,
            },
        }
        wiring.topic(TRAINING_TOPIC).publish(json.dumps(message).encode(), {})
        return _reached(f"{MODEL}-{self._run}-{request_id}", percent)


def _reached(deployment_id: str, percent: int) -> Deployment:
    until = time.monotonic() + REACHES_WITHIN_S
    found: Deployment | None = None
    while time.monotonic() < until:
        try:
            found = wiring.state().deployment(deployment_id)
        except NotFound:
            time.sleep(POLL_S)
            continue
        if percent == 100 and found.status is Status.ACTIVE:
            return found
        if found.status is not Status.DEPLOYING:
            raise NotReached(f"{deployment_id} is {found.status}: {found.reason}")
        served = wiring.cloud_run().service(found.config.service).split
        if percent < 100 and served.get(found.cloud_run_revision) == percent:
            # The step that moved the traffic looks once more; that is not the next call's doing.
            time.sleep(SETTLE_S)
            return found
        time.sleep(POLL_S)
    raise NotReached(f"{deployment_id} did not reach {percent} % in {REACHES_WITHIN_S:g} s")


def _timed(kind: str, left: str, ask: Callable[[], Any]) -> Ending:
    asked_unix, asked_at = time.time(), time.monotonic()
    ask()
    answered_at, answered_unix = time.monotonic(), time.time()
    serves = wiring.state().deployment(wiring.state().model(MODEL).active or "").name
    return Ending(kind, left, serves, asked_at, answered_at, asked_unix, answered_unix)


def undecided_models(folder: Path) -> Path:
    """Write the demo's declaration with nobody who judges its rollouts, and return where."""
    declared = json.loads(MODELS_FILE.read_text())
    policy = declared["models"][MODEL]["policy"]
    policy["canary"] = {**policy.get("canary", {}), "judge": "off"}
    path = folder / "models.json"
    path.write_text(json.dumps(declared))
    return path
