"""Every hour: bring what Cloud Run measured of each version into Firestore, hour by hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.entry import respond
from shared import logs
from shared.domain.deployment import service_of
from shared.domain.serving_metrics import (
    RevisionHour,
    ServingHour,
    begin_of_hour,
    first_hour,
    serving_hour,
    version_of,
)
from shared.errors import NotFound, Unavailable
from shared.messages import CollectMetrics
from shared.ports import MetricsPorts
from shared.sketches import count_distinct
from shared.wiring import metrics_ports

Measured = Mapping[tuple[int, datetime], Sequence[RevisionHour]]
"""Revisions by version and hour."""


def collect_all(command: CollectMetrics, ports: MetricsPorts) -> dict[str, Any]:
    """Collect each model; one that fails now does not keep the others waiting.

    Unavailable, once the others are done, where one failed: the scheduler shows it.
    """
    if command.model_id:
        return {"written": {command.model_id: collect(command.model_id, ports)}}
    written, failed = {}, {}
    for model_id in ports.state.model_ids():
        try:
            written[model_id] = collect(model_id, ports)
        except Exception as error:  # the boundary of one model's collection: all are tried
            logs.log_exception("collection failed", error, model_id=model_id)
            failed[model_id] = f"{type(error).__name__}: {error}"
    if failed:
        raise Unavailable(
            "; ".join(f"{model_id} was not collected: {why}" for model_id, why in failed.items())
        )
    return {"written": written}


def collect(model_id: str, ports: MetricsPorts) -> int:
    """Write the last hours of all versions of a model; return how many documents.

    Safe to repeat: each hour is read and written whole, over the document of the same name.
    How far it came is noted last, so that one that died begins there again. An hour without
    requests gets no document, also where the version was live: up to the noted hour that
    means that there were none.
    """
    if ports.state.declaration(model_id) is None:
        raise NotFound(f"there is no model {model_id!r}")
    now = ports.clock.now()
    begin = first_hour(now, ports.hours.collected_until(model_id))
    service = service_of(model_id)
    measured = _by_version(service, ports.requests.hours(service, begin, now))
    hours = _hours(model_id, measured, now, ports) if measured else []
    ports.hours.write(hours)
    ports.hours.note_collected(model_id, begin_of_hour(now), now)
    return len(hours)


def _by_version(service: str, measured: Sequence[RevisionHour]) -> Measured:
    found: dict[tuple[int, datetime], list[RevisionHour]] = {}
    for one in measured:
        version = version_of(service, one.revision)
        # Without one it is the empty v0, which belongs to no deployment.
        if version is not None:
            found.setdefault((version, one.hour), []).append(one)
    return found


def _hours(
    model_id: str, measured: Measured, now: datetime, ports: MetricsPorts
) -> list[ServingHour]:
    """Join what is known by version: a container knows no deployment's id, only its version."""
    ids = {one.version: one.id for one in ports.state.deployments(model_id)}
    asked = sorted({hour for _, hour in measured})
    sketches = {hour: ports.hours.sketches(model_id, hour) for hour in asked}
    hours = []
    for (version, hour), revisions in measured.items():
        if version not in ids:
            logs.log("requests without a deployment", severity="WARNING", version=version)
            continue
        customers = count_distinct(sketches[hour].get(version, ()))
        found = serving_hour(ids[version], model_id, revisions, customers, now)
        if found is None:
            logs.log("hour is not measured yet", model_id=model_id, version=version, hour=hour)
            continue
        hours.append(found)
    return hours


@functions_framework.http
def collect_metrics(request: flask.Request) -> ResponseReturnValue:
    """Collect the hourly serving metrics (Cloud Scheduler calls it)."""
    return respond(CollectMetrics, request, lambda command: collect_all(command, metrics_ports()))
