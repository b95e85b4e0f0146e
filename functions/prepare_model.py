"""Load the model in a job before any revision exists, and have its answers prepared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue
from google.api_core.exceptions import GoogleAPICallError

from functions.entry import respond
from functions.prepared import MANIFEST, Verdict, manifest_of, place, read_verdicts
from functions.steps import edit, step
from shared import logs
from shared.domain.deployment import Deployment, Step, StepName, StepState
from shared.errors import Conflict, ModelRefused, PreparationFailed
from shared.messages import PrepareModel
from shared.ports import JobState, JobView, Ports
from shared.wiring import ports

POLLED_FOR_S = 30.0
POLL_S = 0.5
ASKED_AGAIN_AFTER_S = 5
# A task may last an hour and is tried twice; whatever is not over then never will be.
ENDED_WITHIN_S = 3 * 3600.0


def prepare(command: PrepareModel, ports: Ports) -> dict[str, Any]:
    """Start the job once, look at it for half a minute, answer `wait` or `go on`.

    A repeat finds the execution that was started; what its tasks wrote is created, never
    overwritten. ModelRefused with the model's own reason as soon as one task gives it;
    PreparationFailed with Cloud Run's message where the job ends without one.
    """
    with step(command, StepName.PREPARE_MODEL, ports) as (deployment, recorder):
        record = deployment.steps[StepName.PREPARE_MODEL.value]
        if record.state is StepState.DONE:
            recorder.detail = record.detail
            return _answer(deployment, "go on", record.detail)
        if not deployment.prepare_execution:
            deployment = _start(command, deployment, ports)
        verdicts, seen = _look(deployment, ports)
        if seen.state is JobState.RUNNING:
            _check_patience(deployment, record, seen, ports)
            recorder.detail = f"{seen.done} of {seen.tasks} tasks done"
            recorder.more = True
            return _answer(deployment, "wait", recorder.detail)
        manifest = _write_manifest(deployment, verdicts, ports)
        deployment = edit(
            command,
            ports,
            lambda found: replace(
                found,
                prepared_digest=manifest["digest"],
                prepared_customers=manifest["customers"],
            ),
        )
        recorder.detail = _detail(deployment, record, manifest, ports)
    return _answer(deployment, "go on", recorder.detail)


def cancel_preparation(deployment_id: str, ports: Ports) -> None:
    """Stop the job of a rollout that has ended; a fault here is no fault.

    It could do no harm: nobody reads what it writes, and it ends by itself. Safe to repeat:
    an execution that has ended stays as it is. The deployment is read again, for it may have
    been started after the caller read it; once its rollout has ended, it cannot be any more.
    """
    deployment = ports.state.deployment(deployment_id)
    if deployment.prepare_execution and not deployment.prepared_digest:
        _cancel(deployment.prepare_execution, ports)


def _start(command: PrepareModel, deployment: Deployment, ports: Ports) -> Deployment:
    """Start the job and store its execution, unless another call came first.

    A crash in between leaves an execution that nobody knows; the next call starts another,
    which finds what the first one wrote.
    """
    if not deployment.artifact_digest:
        raise Conflict(f"{deployment.id!r} has no artifacts to prepare yet")
    started = ports.jobs.start(deployment)
    logs.log("preparation started", deployment_id=deployment.id, execution=started)

    def store(found: Deployment) -> Deployment:
        return found if found.prepare_execution else replace(found, prepare_execution=started)

    try:
        kept = edit(command, ports, store)
    except Conflict:
        # The rollout was overtaken, and whoever did it could not know of this execution.
        _cancel(started, ports)
        raise
    if kept.prepare_execution != started:
        _cancel(started, ports)
    return kept


def _look(deployment: Deployment, ports: Ports) -> tuple[Mapping[int, Verdict], JobView]:
    """Look until the execution ends, at most for half a minute; return the last look."""
    verdicts: Mapping[int, Verdict] = {}
    waited_s = 0.0
    while True:
        seen = ports.jobs.execution(deployment.prepare_execution)
        # Read after the state: once a task has ended, its verdict is there.
        verdicts = read_verdicts(deployment, verdicts, ports)
        for task, verdict in verdicts.items():
            if verdict.refused:
                logs.log("model refused", severity="WARNING", task=task, code=verdict.code)
                raise ModelRefused(verdict.refused)
        if seen is None:
            raise PreparationFailed(deployment.prepare_execution, "its record is gone")
        if seen.state in (JobState.FAILED, JobState.CANCELLED):
            why = seen.message or f"it {seen.state}"
            raise PreparationFailed(deployment.prepare_execution, why, seen.logs)
        if seen.state is JobState.SUCCEEDED or waited_s >= POLLED_FOR_S:
            return verdicts, seen
        ports.clock.sleep(POLL_S)
        waited_s += POLL_S


def _check_patience(deployment: Deployment, record: Step, seen: JobView, ports: Ports) -> None:
    if _lasted_s(record, ports) > ENDED_WITHIN_S:
        raise PreparationFailed(
            deployment.prepare_execution,
            f"not over after {ENDED_WITHIN_S / 3600:g} hours: {seen.message}",
            seen.logs,
        )


def _write_manifest(
    deployment: Deployment, verdicts: Mapping[int, Verdict], ports: Ports
) -> dict[str, Any]:
    """Create the manifest; a repeat finds it, and must have come to the same one."""
    manifest = manifest_of(deployment, verdicts, ports)
    bucket, prefix = place(deployment)
    content = json.dumps(manifest, indent=1, sort_keys=True).encode()
    if not ports.objects.create(bucket, prefix + MANIFEST, content, "application/json"):
        before = ports.objects.read(bucket, prefix + MANIFEST)
        if before is None or json.loads(before) != manifest:
            raise PreparationFailed(
                deployment.prepare_execution, f"{MANIFEST} is there with other content"
            )
    return manifest


def _detail(deployment: Deployment, record: Step, manifest: dict[str, Any], ports: Ports) -> str:
    """Say what was prepared, for people."""
    customers, tasks = manifest["customers"], manifest["tasks"]
    if not deployment.config.prepare.top_k:
        what = "the model was checked; no answers are to be prepared (top_k is 0)"
    elif customers:
        what = f"{customers} customers' answers prepared (top {manifest['top_k']})"
    elif _lists_customers(deployment, ports):
        what = "nothing to prepare: the artifact's customers.txt is empty"
    else:
        what = "nothing to prepare: the artifact has no customers.txt"
    index = "" if manifest["recall"] is None else f", index with recall {manifest['recall']:.3f}"
    share = f"{tasks} task" if tasks == 1 else f"{tasks} tasks"
    return f"{what}{index}, {share}, {_lasted_s(record, ports):.1f} s"


def _lists_customers(deployment: Deployment, ports: Ports) -> bool:
    bucket, prefix = place(deployment)
    return bool(ports.objects.list(bucket, prefix + "customers.txt"))


def _lasted_s(record: Step, ports: Ports) -> float:
    now = ports.clock.now()
    return (now - (record.started_at or now)).total_seconds()


def _cancel(execution: str, ports: Ports) -> None:
    try:
        ports.jobs.cancel(execution)
    except GoogleAPICallError as error:
        logs.log(
            "preparation not cancelled",
            severity="WARNING",
            execution=execution,
            error=str(error),
        )


def _answer(deployment: Deployment, answer: str, why: str) -> dict[str, Any]:
    return {
        "deployment_id": deployment.id,
        "answer": answer,
        "wait_s": ASKED_AGAIN_AFTER_S if answer == "wait" else 0,
        "why": why,
    }


@functions_framework.http
def prepare_model(request: flask.Request) -> ResponseReturnValue:
    """Have the model checked and its answers prepared (asked again until it says `go on`)."""
    return respond(PrepareModel, request, lambda command: prepare(command, ports()))
