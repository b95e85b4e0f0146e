"""Create the candidate's Cloud Run revision: pinned traffic, full template, own conditions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.entry import respond
from functions.steps import apply_traffic, edit, step, tries
from shared import logs
from shared.domain.deployment import Deployment, StepName
from shared.errors import RevisionFailed, RevisionNotReady
from shared.messages import CreateRevision
from shared.ports import Ports, RevisionView, Stale
from shared.wiring import ports

READY_POLL_S = 0.5
READY_MARGIN_S = 60.0


def create(command: CreateRevision, ports: Ports) -> dict[str, Any]:
    """Configure the service, wait for the named revision, give it its tag at 0 percent.

    The attempt's revision name is stored before Cloud Run is called, so a repeat finds
    its own revision. RevisionFailed with Cloud Run's message when it will not start.
    """
    with step(command, StepName.CONFIGURE_SERVICE, ports) as (deployment, recorder):
        deployment = edit(command, ports, _named)
        service, revision = deployment.config.service, deployment.cloud_run_revision
        _write_template(deployment, ports)
        recorder.detail = f"{service}: {revision} at 0 %"
    with step(command, StepName.DEPLOY_REVISION, ports) as (deployment, recorder):
        _wait_until_ready(deployment, ports)
        tags = {deployment.tag: revision}
        served = apply_traffic(service, deployment.model_id, deployment.token, ports, tags)
        url = served.tag_urls[deployment.tag]
        edit(command, ports, lambda found: replace(found, endpoint_url=served.url))
        recorder.detail = f"ready at {url}"
    return {"deployment_id": deployment.id, "revision": revision, "url": url}


def _named(deployment: Deployment) -> Deployment:
    if deployment.cloud_run_revision:
        return deployment
    attempt = deployment.attempt + 1
    return replace(
        deployment,
        attempt=attempt,
        cloud_run_service=deployment.config.service,
        cloud_run_revision=deployment.revision_of_attempt(attempt),
    )


def _write_template(deployment: Deployment, ports: Ports) -> None:
    """Write it unless its revision is there: made by an earlier try, maybe unknown to it."""
    service, revision = deployment.config.service, deployment.cloud_run_revision
    for refusals in tries(service, "the template", deployment.token, ports):
        if ports.cloud_run.revision(service, revision) is not None:
            return
        seen = ports.cloud_run.service(service)
        if not seen.names_all:
            # A template update moves whatever LATEST serves: pin it by name first.
            seen = apply_traffic(seen.name, deployment.model_id, deployment.token, ports)
        # Asked of the very service that is written over, so that its etag guards the answer.
        if not seen.names_all:
            refusals.append("the traffic went back to LATEST")
            continue
        try:
            ports.cloud_run.write_template(seen, deployment, revision)
        except Stale as conflict:
            logs.log("template write conflicted", revision=revision)
            refusals.append(str(conflict))
            continue
        return


def _wait_until_ready(deployment: Deployment, ports: Ports) -> None:
    limit_s = deployment.config.startup_timeout_s + READY_MARGIN_S
    waited_s = 0.0
    while True:
        seen = ports.cloud_run.revision(deployment.config.service, deployment.cloud_run_revision)
        seen = seen or RevisionView(None, "not visible yet")
        if seen.ready:
            return
        if seen.ready is False:
            raise RevisionFailed(deployment.cloud_run_revision, seen.message)
        if waited_s >= limit_s:
            raise RevisionNotReady(deployment.cloud_run_revision, waited_s)
        ports.clock.sleep(READY_POLL_S)
        waited_s += READY_POLL_S


@functions_framework.http
def create_revision(request: flask.Request) -> ResponseReturnValue:
    """Create the candidate's revision at 0 percent of traffic (one workflow step)."""
    return respond(CreateRevision, request, lambda command: create(command, ports()))
