"""The pages that show: every one has an address of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import flask

from functions.dashboard import forms, key_pages, presenting
from functions.dashboard.context import parts, reader
from functions.dashboard.rendering import (
    Fragment,
    answer_fragment,
    answer_page,
    blueprint,
    error_page,
    render_fragment,
    send_on,
    way_back,
)
from functions.dashboard.schemas import DeploymentView, HourView, ModelView
from functions.dashboard.settings import Tools
from shared import wiring
from shared.domain.deployment import Status
from shared.errors import NotFound

__all__ = ["blueprint", "error_page", "forms", "key_pages"]

RUNS_SHOWN, VERSIONS_SHOWN, EVENTS_SHOWN = 6, 10, 50
MARKS_READ, VERSIONS_NAMED = 100, 100
LATE_AFTER_S = 30
PERIODS = ((24, "24 hours"), (7 * 24, "7 days"), (30 * 24, "30 days"))
PLOTS = (
    ("requests", "How many predictions an hour did each version answer?", "", 0),
    ("p50", "How long did half of the predictions take at most? (p50)", " ms", 1),
    ("p95", "How long did 95 of 100 take at most? (p95)", " ms", 1),
    ("p99", "How long did 99 of 100 take at most? (p99)", " ms", 1),
    ("errors", "How many of 100 predictions failed?", " %", 2),
)


@blueprint.get("/")
def models() -> flask.Response:
    """All models: what is live, and is it well."""
    return answer_page("models.html", place="models", fragment=_models().html)


@blueprint.get("/live")
def models_live() -> flask.Response:
    """The live part of the overview."""
    return answer_fragment(_models())


def _models() -> Fragment:
    found = reader().models().items
    moving = any(presenting.is_moving(one) for one in found)
    return render_fragment("_models_live.html", models=found, moving=moving)


@blueprint.get("/models/<model_id>")
def model(model_id: str) -> flask.Response:
    """A model: what is live, what could replace it, and the way back."""
    found = reader().model(model_id)
    return answer_page(
        "model.html",
        place="model",
        model_id=model_id,
        model=found,
        fragment=_model(found).html,
    )


@blueprint.get("/models/<model_id>/live")
def model_live(model_id: str) -> flask.Response:
    """The live part of a model's page."""
    found = reader().model(model_id)
    return answer_fragment(_model(found), way_back=way_back(found))


def _model(model: ModelView) -> Fragment:
    query = {
        name: flask.request.args[name]
        for name in ("runs", "versions")
        if flask.request.args.get(name)
    }
    runs = reader().runs(model.model_id, query.get("runs"), RUNS_SHOWN)
    history = reader().deployments(model.model_id, query.get("versions"), VERSIONS_SHOWN)
    live_run = model.live.training_run if model.live else 0
    # A run that is on its way is not offered a second time.
    taken = {one.training_run for one in (model.live, model.under_way, model.waiting) if one}
    others = [run for run in runs.items if run.run_number not in taken]
    return render_fragment(
        "_model_live.html",
        model=model,
        model_id=model.model_id,
        query=query,
        runs=runs,
        newer_runs=[run for run in others if run.is_better or run.run_number > live_run],
        older_runs=[run for run in others if not run.is_better and run.run_number < live_run],
        nothing_trained=not runs.items and not query.get("runs"),
        history=history,
        history_items=history.items,
        message=_first_message(model.model_id),
        publish_command=_publish_command(),
        logs_url=logs_url(model),
        moving=presenting.is_moving(model),
    )


def _first_message(model_id: str) -> str:
    bucket = min(
        wiring.settings().training_buckets, default=f"{wiring.settings().project}-training"
    )
    message = {
        "schema_version": 1,
        "model_id": model_id,
        "run_number": 1,
        "artifact_uri": f"gs://{bucket}/{model_id}/run-1",
        "metrics": {"recall_at_10": 0.192, "recall_at_50": 0.398, "recall_at_100": 0.472},
        "completed_at": presenting.stamp(datetime.now(UTC).replace(minute=0, second=0)),
        "deploy": {"when": "always", "strategy": "immediate"},
    }
    return json.dumps(message, indent=2)


def _publish_command() -> str:
    if parts().settings.tools is Tools.TURNOUT:
        return "turnout publish --file message.json"
    project = wiring.settings().project
    return (
        f"gcloud pubsub topics publish training-completed --project={project} \\\n"
        '  --message="$(cat message.json)"'
    )


def logs_url(model: ModelView) -> str:
    """Return where the service's logs are: Cloud Logging, or a page that says where."""
    if parts().settings.tools is Tools.TURNOUT:
        return flask.url_for("pages.logs", model_id=model.model_id)
    settings = wiring.settings()
    query = f'resource.type="cloud_run_revision"\nresource.labels.service_name="{model.service}"'
    return (
        "https://console.cloud.google.com/logs/query;query="
        f"{quote(query, safe='')}?project={settings.project}"
    )


@blueprint.get("/models/<model_id>/logs")
def logs(model_id: str) -> flask.Response:
    """Where the local cloud keeps the logs."""
    found = reader().model(model_id)
    return answer_page(
        "logs.html",
        place="logs",
        model_id=model_id,
        model=found,
        command=f"tail -F .turnout/run/logs/{found.service}-*.log",
    )


@blueprint.get("/deployments/<deployment_id>")
def deployment(deployment_id: str) -> flask.Response:
    """A deployment: how far it is, or what became of it."""
    asked = _asked()
    try:
        found = reader().deployment(deployment_id)
    except NotFound:
        if asked is None:
            raise
        waits = _requested(deployment_id, asked)
        return answer_page("requested.html", fragment=waits.html)
    if asked is not None:
        return send_on("pages.deployment", deployment_id=deployment_id)
    model = reader().model(found.model_id)
    return answer_page(
        "deployment.html",
        place="deployment",
        model_id=found.model_id,
        model=model,
        deployment=found,
        fragment=_deployment(found, model).html,
    )


@blueprint.get("/deployments/<deployment_id>/live")
def deployment_live(deployment_id: str) -> flask.Response:
    """The live part of a deployment's page."""
    asked = _asked()
    try:
        found = reader().deployment(deployment_id)
    except NotFound:
        if asked is None:
            raise
        return answer_fragment(_requested(deployment_id, asked))
    if asked is not None:
        # The page so far only said that it was asked for: load the real one, at its own address.
        response = flask.Response(status=204)
        response.headers["HX-Redirect"] = flask.url_for(
            "pages.deployment", deployment_id=deployment_id
        )
        return response
    model = reader().model(found.model_id)
    return answer_fragment(_deployment(found, model), presenting.heading(found), way_back(model))


def _deployment(found: DeploymentView, model: ModelView) -> Fragment:
    events = reader().events_of_deployment(found.id, None, EVENTS_SHOWN).items
    live = model.live if model.live and model.live.id != found.id else None
    later = [stage.percent for stage in found.stages if stage.percent > found.traffic_percent]
    return render_fragment(
        "_deployment_live.html",
        deployment=found,
        model=model,
        events=events,
        with_version=False,
        fate=presenting.fate_of_traffic(found, events),
        sentence=presenting.traffic_sentence(found.name, live.name if live else None, found.stages),
        next_share=later[0] if later and found.traffic_percent else None,
        can_skip=bool(later) and bool(found.traffic_percent) and not found.skipped,
        decision=reader().decision(found),
        held_because=next((one.reason for one in events if one.action == "holding"), ""),
        logs_url=logs_url(model),
        moving=found.status is Status.DEPLOYING,
    )


def _asked() -> int | None:
    """When the deployment was asked for, where the address says so, in seconds since 1970."""
    text = flask.request.args.get("asked", "")
    return int(text) if text.isdecimal() and len(text) < 12 else None


def _requested(deployment_id: str, asked: int) -> Fragment:
    waited_s = max(0, int(time.time()) - asked)
    return render_fragment(
        "_requested.html",
        deployment_id=deployment_id,
        asked=asked,
        late=waited_s if waited_s >= LATE_AFTER_S else 0,
    )


@blueprint.get("/models/<model_id>/compare")
def compare(model_id: str) -> flask.Response:
    """A training run beside the live version."""
    comparison = reader().compare(model_id, forms.run_number())
    return answer_page(
        "compare.html",
        place="compare",
        model_id=model_id,
        model=reader().model(model_id),
        comparison=comparison,
        run=comparison.new,
    )


@blueprint.get("/models/<model_id>/metrics")
def metrics(model_id: str) -> flask.Response:
    """How every version served, hour by hour."""
    wanted = flask.request.args.get("hours", "24")
    period = int(wanted) if wanted in {str(hours) for hours, _ in PERIODS} else 24
    found = reader().model_metrics(model_id, period)
    named = _versions(model_id, [view.deployment_id for view in found])
    rows = sorted(
        ((named[view.deployment_id], hour) for view in found for hour in view.hours),
        key=lambda row: (row[1].hour, row[0]),
        reverse=True,
    )
    return answer_page(
        "metrics.html",
        place="metrics",
        model_id=model_id,
        model=reader().model(model_id),
        period=period,
        periods=PERIODS,
        plots=PLOTS,
        rows=rows,
        rows_many=len(rows) > 24,
        marks=_marks(model_id, named) if rows else [],
        total=_total([hour for _, hour in rows]),
        **_span(period),
    )


def _span(period: int) -> dict[str, int]:
    this_hour = int(time.time()) // 3600 * 3600
    return {"first": this_hour - (period - 1) * 3600, "last": this_hour}


def _total(hours: Sequence[HourView]) -> Any:
    return SimpleNamespace(
        requests=sum(hour.request_count for hour in hours),
        errors=sum(hour.error_count for hour in hours),
    )


def _versions(model_id: str, deployment_ids: Sequence[str]) -> dict[str, str]:
    """The versions' names by deployment: the newest in one query, older ones each by itself."""
    newest = reader().deployments(model_id, None, VERSIONS_NAMED).items
    named = {one.id: one.name for one in newest}
    missing = [one for one in deployment_ids if one not in named]
    return named | {one: reader().deployment(one).name for one in missing}


def _marks(model_id: str, named: dict[str, str]) -> list[tuple[int, str, bool]]:
    """When a version became the live one: seconds, words, and whether it was a way back."""
    events = reader().audit(model_id, None, MARKS_READ).items
    back = {(one.deployment_id, one.at) for one in events if one.action == "rollback"}
    return [
        (
            int(event.at.timestamp()),
            f"back to {name}" if (event.deployment_id, event.at) in back else f"{name} live",
            (event.deployment_id, event.at) in back,
        )
        for event in events
        if event.action == Status.ACTIVE.value and (name := named.get(event.deployment_id))
    ]


@blueprint.get("/models/<model_id>/audit")
def audit(model_id: str) -> flask.Response:
    """Every action on a model: who, when, why, and from where."""
    found = reader().audit(model_id, flask.request.args.get("cursor") or None, EVENTS_SHOWN)
    return answer_page(
        "audit.html",
        place="audit",
        model_id=model_id,
        model=reader().model(model_id),
        events=found.items,
        next_cursor=found.next_cursor,
        with_version=True,
    )


@blueprint.get("/models/<model_id>/health")
def health(model_id: str) -> flask.Response:
    """Ask the live service's /health, now."""
    found = reader().model(model_id)
    return answer_page(
        "health.html",
        place="health",
        model_id=model_id,
        model=found,
        health=reader().health(model_id),
        asked_at=datetime.now(UTC),
        logs_url=logs_url(found),
    )
