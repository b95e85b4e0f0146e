"""What the steps of a rollout share: their record in Firestore, and the traffic rule."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from google.api_core.exceptions import GoogleAPIError

from shared import logs
from shared.domain.deployment import Deployment, Step, StepName, StepState
from shared.domain.model import Book, holds
from shared.domain.recovery import check_current
from shared.domain.traffic import Split, describe
from shared.errors import (
    Conflict,
    NotFound,
    PipelineError,
    Refused,
    Superseded,
    TrafficNotApplied,
    Unavailable,
)
from shared.messages import StepRequest
from shared.ports import Ports, ServiceView, Stale

APPLIED_WITHIN_S = 60.0
POLL_S = 0.25
CONFLICTS_AT_MOST = 10
PAUSE_S, PAUSE_AT_MOST_S = 0.1, 5.0
RECORDED = (
    "what is wanted is recorded, and Cloud Run may not have it yet: "
    "asking again, or reconcile, completes it"
)


@dataclass
class Recorder:
    """Collects what a running step did: its `detail`, and whether `more` of it follows."""

    detail: str = ""
    more: bool = False


@contextmanager
def step(
    command: StepRequest, name: StepName, ports: Ports
) -> Iterator[tuple[Deployment, Recorder]]:
    """Record start, end, detail and error of a step around its work.

    Superseded, before anything is done, unless the deployment still holds its model's
    rollout. A repeat starts the record again; the start of the first try is kept.
    """
    deployment = edit(command, ports, lambda found: _started(found, name, ports))
    recorder = Recorder()
    try:
        yield deployment, recorder
    except PipelineError as error:
        # A Superseded rollout's record belongs to whoever took over.
        if not isinstance(error, Superseded):
            edit(command, ports, partial(_failed, name=name, error=error, ports=ports))
        raise
    ended = edit(command, ports, lambda found: _done(found, name, recorder, ports))
    _log(ended, name)


def edit(
    command: StepRequest, ports: Ports, change: Callable[[Deployment], Deployment]
) -> Deployment:
    """Change the deployment in one transaction that compares the fencing token first."""

    def move(book: Book) -> Deployment:
        deployment = book.deployment(command.deployment_id)
        holds(book, deployment)
        if deployment.execution != command.execution:
            raise Conflict(f"{deployment.id!r} belongs to execution {deployment.execution!r}")
        changed = change(deployment)
        if changed != deployment:
            book.put(changed)
        return changed

    return ports.state.change(model_of(command.deployment_id, ports), move)


def model_of(deployment_id: str, ports: Ports) -> str:
    """Return the model of a deployment; NotFound where there is none."""
    return ports.state.deployment(deployment_id).model_id


def require_current(model_id: str, service: str, ports: Ports) -> None:
    """StateIsOlder where the model's documents are older than the service's last write.

    A service that is not there contradicts nothing.
    """
    with suppress(NotFound):
        # Read in this order: see `check_current`.
        served = ports.cloud_run.service(service).token
        check_current(ports.state.model(model_id), served)


def tries(service: str, what: str, token: int | None, ports: Ports) -> Iterator[list[str]]:
    """Begin a write under an etag again and again, a little later each time; Unavailable at last.

    The caller leaves once it was let through, and else puts why it was not into the list. Cloud
    Run takes 60 writes a minute of a project in a region. Two writers have two tokens, and so
    do not come back at the same time.
    """
    jitter, refusals = Random(token), [""]
    for number in range(CONFLICTS_AT_MOST):
        if number:
            pause_s = min(PAUSE_S * 2 ** (number - 1), PAUSE_AT_MOST_S)
            ports.clock.sleep(pause_s * jitter.uniform(0.5, 1))
        yield refusals
    raise Unavailable(
        f"{service!r} did not take {what} in {CONFLICTS_AT_MOST} tries, at last: {refusals[-1]}; "
        "the next try or reconcile completes it"
    )


@contextmanager
def _recorded() -> Iterator[None]:
    """Note on Google's errors, for people, that what is wanted is recorded by now."""
    try:
        yield
    except (GoogleAPIError, Refused) as error:
        error.add_note(RECORDED)
        raise


@_recorded()
def apply_traffic(
    service: str,
    model_id: str,
    token: int | None,
    ports: Ports,
    tags: Mapping[str, str] | None = None,
    seen: ServiceView | None = None,
    dropped: Collection[str] = (),
) -> ServiceView:
    """Make Cloud Run serve the model's desired split; return the service that does.

    The one way in which traffic is ever changed: read the service and its etag, check the
    token, write under that etag, start again on a conflict, believe `traffic_statuses`.
    So whoever was overtaken fails, in any interleaving: Superseded. TrafficNotApplied
    when Cloud Run does not serve the split and the `tags` in time, Unavailable when it does
    not take them. Other tags are kept as they are served now, `dropped` ones are not: one that
    is not served names a revision that is not ready, and would keep all of the split from being
    served. Who took the token after reading the service passes that as `seen`: whatever was
    written since then makes its etag stale. StateIsOlder where the documents were restored to a
    time before the service's last write.
    """
    tags = tags or {}
    for refusals in tries(service, "the split", token, ports):
        seen = seen or ports.cloud_run.service(service)
        model = ports.state.model(model_id)
        check_current(model, seen.token)
        if model.token != token:
            raise Superseded(model_id, token, model.token)
        wanted_tags = {**_kept(seen, {*tags, *dropped}), **tags}
        try:
            ports.cloud_run.write_traffic(seen, model.desired, wanted_tags, model.token)
        except Stale as conflict:
            logs.log("traffic write conflicted", service=service, conflict=str(conflict))
            refusals.append(str(conflict))
            seen = None
            continue
        served = _wait_until_served(seen, model.desired, tags, dropped, ports)
        logs.log("traffic applied", service=service, token=token, traffic=dict(model.desired))
        return served
    raise AssertionError("unreachable: the last try raises")


def _kept(seen: ServiceView, besides: Collection[str]) -> dict[str, str]:
    """Return the tags, but those, that are written and served, with where they lead now."""
    others = {tag: revision for tag, revision in seen.tags.items() if tag not in besides}
    kept = {tag: seen.served_tags[tag] for tag in others if tag in seen.served_tags}
    if kept != others:
        logs.log("tags not served", severity="WARNING", service=seen.name, tags=others, kept=kept)
    return kept


def _wait_until_served(
    before: ServiceView,
    wanted: Split,
    tags: Mapping[str, str],
    dropped: Collection[str],
    ports: Ports,
) -> ServiceView:
    waited_s = 0.0
    while True:
        seen = ports.cloud_run.service(before.name)
        missing = {tag for tag, to in tags.items() if seen.served_tags.get(tag) != to}
        left = {*dropped} & {*seen.served_tags}
        if dict(seen.split) == dict(wanted) and not missing and not left:
            return seen
        # A read that still has the etag which was written over does not see the write yet.
        overwritten = dict(seen.written) != dict(wanted) and seen.etag != before.etag
        if overwritten or waited_s >= APPLIED_WITHIN_S:
            actual = describe(seen.split) + _tagged(", without", missing) + _tagged(", with", left)
            raise TrafficNotApplied(seen.name, describe(wanted), actual, waited_s)
        ports.clock.sleep(POLL_S)
        waited_s += POLL_S


def _tagged(how: str, tags: Collection[str]) -> str:
    return f"{how} the tag {', '.join(sorted(tags))}" if tags else ""


def _log(deployment: Deployment, name: StepName) -> None:
    """Write how long a step took, from its first try; a repeat writes the same again."""
    found = deployment.steps[name.value]
    if found.started_at and found.ended_at:
        logs.log(
            "step ended",
            step=name.value,
            model_id=deployment.model_id,
            deployment_id=deployment.id,
            seconds=round((found.ended_at - found.started_at).total_seconds(), 3),
        )


def _started(deployment: Deployment, name: StepName, ports: Ports) -> Deployment:
    before = deployment.steps.get(name.value, Step())
    started_at = before.started_at or ports.clock.now()
    if before.state is StepState.DONE:
        return deployment
    return deployment.with_step(
        name, replace(before, state=StepState.RUNNING, started_at=started_at)
    )


def _done(deployment: Deployment, name: StepName, recorder: Recorder, ports: Ports) -> Deployment:
    before = deployment.steps[name.value]
    if recorder.more:
        return deployment.with_step(name, replace(before, detail=recorder.detail, error=""))
    ended_at = before.ended_at or ports.clock.now()
    done = replace(
        before, state=StepState.DONE, ended_at=ended_at, detail=recorder.detail, error=""
    )
    return deployment.with_step(name, done)


def _failed(
    deployment: Deployment, name: StepName, error: PipelineError, ports: Ports
) -> Deployment:
    before = deployment.steps[name.value]
    if before.state is StepState.DONE:
        # The fault of a late repeat: the step itself has succeeded.
        return deployment
    # One that may still succeed is tried again: it runs on, with its last error beside it.
    state = StepState.RUNNING if error.http_status >= 500 else StepState.FAILED
    ended_at = ports.clock.now() if state is StepState.FAILED else None
    return deployment.with_step(
        name, replace(before, state=state, ended_at=ended_at, error=str(error))
    )
