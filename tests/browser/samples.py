"""A dashboard with a story in it: every page and every state, for looking and for axe.

The pages, the API and Firestore are the real ones; Cloud Run is in memory.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

from functions.dashboard.identity import Who
from functions.dashboard.schemas import CreateKey
from functions.dashboard.settings import DashboardSettings, IdentityMode, Tools
from shared import wiring
from shared.domain.deployment import Deployment, Event, Status, Step, StepName, StepState
from shared.domain.model import Book, abort, roll_back
from shared.domain.paired import Paired
from shared.domain.policy import HoldPolicy, RolloutPolicy
from shared.domain.quality_gate import DeployWhen, GatePolicy, decide
from shared.domain.rollout import Strategy, plan_rollout
from shared.domain.skew import Agreement, Finding, Recall, Spread
from tests.dashboards import Dashboard, firestore_here

MODEL, ROLLING, FAULTY, EMPTY = "movies", "retail-recs", "news", "new-shop"
HOLDING = "shop-recs"
PERSON = "ops@example.com"
STEPS = list(StepName)
_RECALLS = {42: 0.431, 45: 0.452, 44: 0.447, 46: 0.468}


@dataclass(frozen=True)
class Gallery:
    """Where the dashboard answers, and what there is to look at."""

    url: str
    dashboard: Dashboard
    rolling: Deployment
    holding: Deployment
    failed: Deployment
    earlier: Deployment
    key_id: str


class Quiet(WSGIRequestHandler):
    """A server without a line for every request."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


def metrics_of(recall: float) -> dict[str, float]:
    """Return a training run's metrics for its Recall@100."""
    return {
        "recall_at_100": recall,
        "recall_at_50": round(recall - 0.075, 3),
        "recall_at_10": round(recall - 0.279, 3),
        "loss": round(2.1 - recall, 3),
    }


@contextmanager
def gallery(folder: Path) -> Iterator[Gallery]:
    """Serve the dashboard on loopback, filled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TURNOUT_PROJECT", "turnout-local")
        patch.setenv("TURNOUT_GRPC_EMULATOR_HOST", "127.0.0.1:1")
        wiring.settings.cache_clear()
        with firestore_here(folder, patch) as client:
            dashboard = Dashboard(client)
            app = dashboard.another(DashboardSettings(mode=IdentityMode.LOCAL, tools=Tools.TURNOUT))
            server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield _fill(dashboard, f"http://127.0.0.1:{server.port}")
            finally:
                server.shutdown()
                thread.join()
                server.server_close()
                wiring.settings.cache_clear()


def _fill(dashboard: Dashboard, url: str) -> Gallery:
    now = datetime.now(UTC)
    for model_id in (MODEL, ROLLING, HOLDING, FAULTY, EMPTY):
        dashboard.declare(model_id, strategy="gradual", steps_percent=(10, 50, 100), over="1h")
    earlier = _movies(dashboard, now)
    rolling = _rolling(dashboard, now)
    holding = hold(dashboard, HOLDING, now)
    failed = _failed(dashboard, now)
    dashboard.clock.time = now - timedelta(days=9)
    admin = Who(PERSON, "admin", "dashboard 203.0.113.9")
    actions = dashboard.another(
        DashboardSettings(mode=IdentityMode.LOCAL, tools=Tools.TURNOUT)
    ).extensions["turnout"]
    actions.actions.create_key(MODEL, CreateKey(name="app", days=None), admin)
    kept = actions.actions.create_key(MODEL, CreateKey(name="web shop", days=90), admin)
    old = actions.actions.create_key(MODEL, CreateKey(name="old batch job", days=None), admin)
    actions.actions.revoke_key(old.id, admin)
    dashboard.clock.time = now
    return Gallery(url, dashboard, rolling, holding, failed, earlier, kept.id)


def _movies(dashboard: Dashboard, now: datetime) -> Deployment:
    """v1 to v4: one was rolled back from, v4 is live; run 47 is better, run 48 is not."""
    lived: list[Deployment] = []
    for run, days in ((42, 20.2), (45, 6.1), (44, 3.3), (46, 0.25)):
        dashboard.clock.time = now - timedelta(days=days)
        recall = _RECALLS[run]
        lived.append(_lives(dashboard, run, MODEL, recall, PERSON if run != 45 else "training"))
        if run == 44:
            dashboard.clock.time += timedelta(hours=5)
            at, back = dashboard.clock.now(), lived[1]
            why = "shop reports odd answers for new customers"
            source = "dashboard 203.0.113.9"
            dashboard.state.change(
                MODEL,
                lambda book, at=at, back=back, why=why, source=source: _back(
                    book, back.id, at, why, source
                ),
            )
    dashboard.clock.time = now - timedelta(hours=2)
    dashboard.run(47, metrics=metrics_of(0.472), completed_at=now - timedelta(hours=2))
    dashboard.run(48, metrics=metrics_of(0.461), completed_at=now - timedelta(minutes=40))
    spans = (
        (lived[1], now - timedelta(days=30), now - timedelta(days=3.3)),
        (lived[2], now - timedelta(days=3.3), now - timedelta(days=3.09)),
        (lived[1], now - timedelta(days=3.09), now - timedelta(hours=6)),
        (lived[3], now - timedelta(hours=6), now),
    )
    _measured(dashboard, spans)
    return lived[1]


def _back(book: Book, target_id: str, at: datetime, why: str, source: str) -> None:
    roll_back(book, target_id, at, PERSON, why, source)
    book.model = replace(book.model, lock=None)


def _lives(dashboard: Dashboard, run: int, model_id: str, recall: float, person: str) -> Deployment:
    metrics = metrics_of(recall)
    at = dashboard.clock.now()
    made = dashboard.live(
        run,
        model_id,
        metrics=metrics,
        recall_at_100=metrics["recall_at_100"],
        recall_at_50=metrics["recall_at_50"],
        recall_at_10=metrics["recall_at_10"],
        deployed_by=person,
        serving_model_path=f"gs://turnout-local-serving/models/{model_id}/v{run}/",
        artifact_digest="sha256:9f2c1b7e" + "0" * 56,
        reason="better: recall_at_100 was higher than the live version's",
    )
    done = replace(made, steps=_steps(at, (3.1, 41.2, 1.2, 4.0, 6.4, 4.9)))
    lives = Event(
        done.id,
        model_id,
        at,
        "pipeline",
        "active",
        "the rollout is complete",
        Status.DEPLOYING.value,
        Status.ACTIVE.value,
        {done.cloud_run_revision: 100},
    )

    def told(book: Book) -> None:
        book.put(done)
        book.record(lives)

    dashboard.state.change(model_id, told)
    return done


def _steps(ended: datetime, lasted_s: tuple[float, ...]) -> dict[str, Step]:
    details = (
        "14 files, 48.2 MB, digest sha256:9f2c1b7e",
        "128000 customers' answers prepared (top 10), 4 tasks, 41.0 s",
        "image turnout-serving, 2 CPU, 4Gi, 1 to 10 instances",
        "revision is ready",
        "5 golden customers answered; scores finite and ordered",
        "100 % of traffic",
    )
    begin = ended - timedelta(seconds=sum(lasted_s))
    steps = {}
    for name, detail, lasted in zip(STEPS, details, lasted_s, strict=False):
        end = begin + timedelta(seconds=lasted)
        steps[name.value] = Step(StepState.DONE, begin, end, detail)
        begin = end
    return steps


def _rolling(dashboard: Dashboard, now: datetime) -> Deployment:
    """A gradual rollout in its first stage."""
    dashboard.clock.time = now - timedelta(days=5)
    _lives(dashboard, 11, ROLLING, 0.381, "training")
    dashboard.clock.time = now - timedelta(minutes=9)
    made = dashboard.rolling(12, ROLLING)
    steps = _steps(now - timedelta(minutes=8), (2.8, 40.7, 1.1, 3.5, 7.0))
    steps[StepName.SWITCH_TRAFFIC.value] = Step(
        StepState.RUNNING, now - timedelta(minutes=8), None, "10 % of traffic"
    )
    rolled = replace(
        made, steps=steps, deployed_by=PERSON, plan=plan_rollout(Strategy.GRADUAL, (10, 50), 3600)
    )
    dashboard.state.change(ROLLING, lambda book: book.put(rolled))
    (before,) = (one for one in dashboard.state.deployments(ROLLING) if one.version == 1)
    dashboard.cloud_run.by_hand(
        f"model-serving-{ROLLING}",
        {before.cloud_run_revision: 90, rolled.cloud_run_revision: 10},
    )
    return rolled


def hold(dashboard: Dashboard, model_id: str, now: datetime) -> Deployment:
    """Leave a gradual rollout at its first stage, where the policy wants a person to agree."""
    dashboard.clock.time = now - timedelta(days=5)
    _lives(dashboard, 21, model_id, 0.402, "training")
    dashboard.clock.time = now - timedelta(minutes=52)
    made = dashboard.rolling(22, model_id)
    dashboard.state.decide(f"{model_id}-22", "auto", _decision(now - timedelta(minutes=53)))
    steps = _steps(now - timedelta(minutes=50), (3.4, 44.0, 1.1, 3.5, 9.2))
    steps[StepName.SWITCH_TRAFFIC.value] = Step(
        StepState.RUNNING, now - timedelta(minutes=50), None, "10 % of traffic"
    )
    passed = "0.02% errors, p95 6 ms over 4812 requests; 0.02% and 6 ms at the live version"
    held = replace(
        made,
        steps=steps,
        plan=plan_rollout(Strategy.GRADUAL, (10, 50), 3600),
        policy=RolloutPolicy(hold=HoldPolicy(at_percent=(10,))),
        metrics=metrics_of(0.409),
        recall_at_100=0.409,
        holding_since=now - timedelta(minutes=20),
        judgement={
            "verdict": "pass",
            "why": passed,
            "numbers": {
                "candidate_requests": 4812,
                "candidate_errors": 1,
                "candidate_p50_ms": 2.14,
                "candidate_p95_ms": 6.2,
                "live_requests": 43_290,
                "live_errors": 9,
                "live_p50_ms": 2.09,
                "live_p95_ms": 6.0,
            },
            "blocks": 24,
            "at": now - timedelta(minutes=21),
        },
        skew=SKEW,
    )
    at = now - timedelta(minutes=20)
    why = "waits for a person's approval: the policy wants it at 10 %"

    def told(book: Book) -> None:
        book.put(held)
        for action, reason in (("judged", f"pass at 10 %: {passed}"), ("holding", why)):
            book.record(Event(held.id, model_id, at, "pipeline", action, reason))

    dashboard.state.change(model_id, told)
    dashboard.cloud_run.by_hand(
        f"model-serving-{model_id}",
        {f"model-serving-{model_id}-v1-1": 90, held.cloud_run_revision: 10},
    )
    dashboard.clock.time = now
    return held


def _decision(at: datetime) -> dict[str, Any]:
    """What the quality gate stored, with results by customer."""
    policy = GatePolicy(
        DeployWhen.IF_BETTER, "recall_at_100", 0.002, {"recall_at_10": 0.005}, significance=0.05
    )
    tested = Paired(n=18_204, mean=0.0061, low=0.0028, high=0.0094, p=0.00031, confidence=0.95)
    gate = decide(policy, metrics_of(0.409), metrics_of(0.402), tested)
    return {**asdict(gate), "at": at}


SKEW = {
    "check": "report",
    "customers": {
        "kind": "held-out customers",
        "given": 18_204,
        "asked": 2000,
        "answered": 2000,
        "unknown_share": 0.0,
    },
    "recall": {
        f"recall_at_{k}": asdict(Recall(k, served, served - r, served + r, 2000, 18_204, reported))
        for k, served, r, reported in (
            (10, 0.1288, 0.0061, 0.130),
            (50, 0.3361, 0.0079, 0.334),
            (100, 0.4072, 0.0083, 0.409),
        )
    },
    "tolerance": 0.02,
    "spread": asdict(Spread(9066, 0.412, 0.121, "296", 0.87)),
    "live": {
        "version": "v1",
        "why_not": "",
        "agreement": asdict(Agreement(2000, 0.634, 0.71)),
        "spread": asdict(Spread(9066, 0.438, 0.137, "318", 0.86)),
    },
    "latency": {
        "customers": 50,
        "p50_ms": 2.1,
        "p95_ms": 6.3,
        "live_p50_ms": 2.0,
        "live_p95_ms": 5.9,
    },
    "findings": [
        asdict(
            Finding(
                "coverage",
                "41.20% of the 9,066 products are recommended to anybody, less than 42.00%",
            )
        )
    ],
    "faults": [],
    "notes": ["2,000 of 18,204 held-out customers were asked in the time"],
}
"""A report on answers, as `check_health` stores it."""


def _failed(dashboard: Dashboard, now: datetime) -> Deployment:
    """A rollout that failed in its health check."""
    dashboard.clock.time = now - timedelta(days=2)
    _lives(dashboard, 3, FAULTY, 0.402, PERSON)
    dashboard.clock.time = now - timedelta(minutes=26)
    made = dashboard.rolling(4, FAULTY)
    at = now - timedelta(minutes=25)
    steps = _steps(at, (2.9, 42.1, 1.0, 3.0))
    steps[StepName.HEALTH_CHECKS.value] = Step(StepState.RUNNING, at, None, "")
    unhealthy = replace(made, steps=steps, healthy=False, traffic_percent=0)
    dashboard.state.change(FAULTY, lambda book: book.put(unhealthy))
    why = "the scores of customer '73' are not finite numbers (nan); the model diverged in training"
    dashboard.state.change(
        FAULTY, lambda book: _abort(book, made.id, now - timedelta(minutes=24), why)
    )
    return dashboard.state.deployment(made.id)


def _abort(book: Book, deployment_id: str, at: datetime, why: str) -> None:
    abort(book, deployment_id, Status.FAILED, at, "pipeline", why)
    book.model = replace(book.model, lock=None)


def _measured(
    dashboard: Dashboard, spans: tuple[tuple[Deployment, datetime, datetime], ...]
) -> None:
    for deployment, begin, end in spans:
        at = begin.replace(minute=0, second=0, microsecond=0)
        while at < end:
            busy = 1 + math.sin((at.hour - 9) / 24 * 2 * math.pi)
            requests = int(180 + 420 * busy)
            slow = 1.6 if deployment.training_run == 44 else 1.0
            errors = requests // 90 if deployment.training_run == 44 else requests // 600
            dashboard.hour(
                deployment,
                at,
                request_count=requests,
                unique_customers=int(requests * 0.7),
                avg_latency_ms=2.1 * slow + busy / 4,
                p50_latency_ms=1.8 * slow + busy / 5,
                p95_latency_ms=4.2 * slow + busy,
                p99_latency_ms=8.8 * slow + 2 * busy,
                error_count=errors,
                error_rate=errors / requests,
            )
            at += timedelta(hours=1)


def addresses(found: Gallery) -> dict[str, str]:
    """Return every page that can be shown by its address alone, by a short name."""
    movies = f"/models/{MODEL}"
    return {
        "models": "/",
        "model": movies,
        "model-deploying": f"/models/{ROLLING}",
        "model-empty": f"/models/{EMPTY}",
        "deploy": f"{movies}/deploy?run=47",
        "progress": f"/deployments/{found.rolling.id}",
        "holding": f"/deployments/{found.holding.id}",
        "skip": f"/deployments/{found.holding.id}/skip",
        "failed": f"/deployments/{found.failed.id}",
        "rollback": f"/deployments/{found.earlier.id}/rollback",
        "cancel": f"/deployments/{found.rolling.id}/cancel",
        "compare": f"{movies}/compare?run=47",
        "metrics": f"{movies}/metrics?hours=168",
        "api": f"{movies}/api",
        "revoke": f"{movies}/keys/{found.key_id}/revoke",
        "health": f"{movies}/health",
        "audit": f"{movies}/audit",
        "logs": f"{movies}/logs",
        "not-found": "/models/nothing-here",
    }
