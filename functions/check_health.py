"""Ask the candidate through its tag URL, before any user sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.asking import (
    UNKNOWN_CUSTOMER,
    Candidate,
    ask_patiently,
    check_answer,
    name_of,
    results_of,
)
from functions.entry import respond
from functions.skew import Tell, measure, summary
from functions.steps import edit, step
from shared.domain.deployment import Deployment, StepName, StepState
from shared.domain.policy import Checking
from shared.domain.skew import CUTOFFS, SHOWN
from shared.errors import Conflict, HealthCheckFailed
from shared.messages import CheckHealth
from shared.ports import Ports
from shared.wiring import ports

READY_POLL_S = 1.0
KEY_LIFETIME_S = 3600.0
PROGRESS_EVERY_S = 1.0
TOP_K = max(CUTOFFS)


def check(command: CheckHealth, ports: Ports) -> dict[str, Any]:
    """Ready, the right artifacts, golden customers answered, recall as training measured it.

    Only reads the candidate, so it may run again. HealthCheckFailed says what was wrong;
    afterwards, and only then, the revision may be given traffic.
    """
    with step(command, StepName.HEALTH_CHECKS, ports) as (deployment, recorder):
        url = _tag_url(deployment, ports)
        health = _wait_until_healthy(url, deployment.config.startup_timeout_s, ports)
        _check_identity(deployment, health)
        golden = deployment.config.golden_customers
        products = int(health.get("products", TOP_K))
        with _key(deployment, ports) as key:
            answers = _ask(url, key, [*golden, UNKNOWN_CUSTOMER], min(SHOWN, products), ports)
            for customer, answer in answers.items():
                check_answer(customer, answer, min(SHOWN, products))
            candidate = Candidate(url, key, min(TOP_K, products), ports)
            measured = _measure_skew(deployment, candidate, products, command, ports)
        edit(command, ports, lambda found: replace(found, healthy=True))
        recorder.detail = (
            f"{deployment.name} answers with the copied artifacts; {len(golden)} golden "
            f"customers and an unknown one answered, scores finite and ordered{measured}"
        )
    return {"deployment_id": deployment.id, "healthy": True, "golden_customers": len(golden)}


def _measure_skew(
    deployment: Deployment, candidate: Candidate, products: int, command: CheckHealth, ports: Ports
) -> str:
    """Record the report on the candidate's answers and return it in words.

    HealthCheckFailed for wrong answers, and for what the policy gates.
    """
    policy = deployment.policy.skew
    if policy.check is Checking.OFF:
        return ""
    measured = measure(deployment, candidate, products, ports, _progress(command, ports))
    # A repeat measures anew and writes over what it found before.
    edit(command, ports, lambda found: replace(found, skew=measured.report))
    reasons = list(measured.faults)
    if policy.check is Checking.GATE:
        gated = "the policy's skew.check is gate; report would only record it"
        reasons += [f"{finding.why} ({gated})" for finding in measured.findings]
    if reasons:
        raise HealthCheckFailed("; ".join(reasons))
    return f"; {summary(measured.report)}"


def _progress(command: CheckHealth, ports: Ports) -> Tell:
    """Return what writes how far the step is into its record, at most once a second."""
    written_at = ports.clock.now()

    def write(detail: str) -> None:
        nonlocal written_at
        if (ports.clock.now() - written_at).total_seconds() < PROGRESS_EVERY_S:
            return
        edit(command, ports, lambda found: _with_detail(found, detail))
        written_at = ports.clock.now()

    return write


def _with_detail(deployment: Deployment, detail: str) -> Deployment:
    """A late repeat of a step that is done leaves its record alone."""
    record = deployment.steps[StepName.HEALTH_CHECKS.value]
    if record.state is not StepState.RUNNING:
        return deployment
    return deployment.with_step(StepName.HEALTH_CHECKS, replace(record, detail=detail))


def _tag_url(deployment: Deployment, ports: Ports) -> str:
    urls = ports.cloud_run.service(deployment.config.service).tag_urls
    if deployment.tag not in urls:
        raise Conflict(
            f"{deployment.config.service!r} has no tag {deployment.tag!r} to ask {deployment.name} "
            "at: its revision is not created yet, or somebody removed the tag"
        )
    return urls[deployment.tag]


def _wait_until_healthy(url: str, limit_s: float, ports: Ports) -> Mapping[str, Any]:
    """Wait for all paths: the first 200 comes with the prepared answers, the model loads behind.

    So it may take as long as a start may, once more.
    """
    waited_s = 0.0
    while True:
        status, body = ports.predictions.health(url)
        if status == 200 and body.get("status") == "healthy":
            return body
        if waited_s >= limit_s:
            why = body.get("reason") or body.get("detail") or _paths(body) or "no reason given"
            raise HealthCheckFailed(f"/health answers {status} after {waited_s:g} s: {why}")
        ports.clock.sleep(READY_POLL_S)
        waited_s += READY_POLL_S


def _paths(body: Mapping[str, Any]) -> str:
    """Return which paths are ready, in a few words, where the container says it."""
    paths = body.get("paths")
    return ", ".join(f"{k}: {v}" for k, v in paths.items()) if isinstance(paths, dict) else ""


def _check_identity(deployment: Deployment, health: Mapping[str, Any]) -> None:
    expected = {
        "model_id": deployment.model_id,
        "model_version": deployment.name,
        "training_run": deployment.training_run,
        "artifact_digest": deployment.artifact_digest,
    }
    wrong = {name: health.get(name) for name in expected if health.get(name) != expected[name]}
    if wrong:
        raise HealthCheckFailed(
            f"another model answers at the candidate's URL: {wrong}, expected "
            f"{ {name: expected[name] for name in wrong} }"
        )


def _ask(url: str, key: str, customers: list[str], top_k: int, ports: Ports) -> dict[str, Any]:
    status, body = ask_patiently(url, key, customers, top_k, ports)
    if status != 200:
        who = _refused(url, key, customers, top_k, ports)
        raise HealthCheckFailed(
            f"/recommend-batch answers {status} for {who}: {body.get('detail', 'no detail')}"
        )
    results = results_of(status, body, customers)
    if results is None:
        given = body.get("results")
        answered = len(given) if isinstance(given, list) else 0
        raise HealthCheckFailed(f"asked for {len(customers)} customers, {answered} answered")
    return {result["customer_id"]: result.get("recommendations") for result in results}


def _refused(url: str, key: str, customers: list[str], top_k: int, ports: Ports) -> str:
    """Return which customer is not answered alone either; asking again changes nothing."""
    for customer in customers:
        if ports.predictions.recommend(url, key, [customer], top_k)[0] != 200:
            return name_of(customer)
    return f"{len(customers)} customers at once"


@contextmanager
def _key(deployment: Deployment, ports: Ports) -> Iterator[str]:
    """A key of one hour that only this check knows, revoked when it is done."""
    name = f"health check of {deployment.name}"
    key_id, plain = ports.keys.create(deployment.model_id, name, "check_health", KEY_LIFETIME_S)
    try:
        yield plain
    finally:
        ports.keys.revoke(key_id)


@functions_framework.http
def check_health(request: flask.Request) -> ResponseReturnValue:
    """Check the candidate before it gets traffic (one workflow step)."""
    return respond(CheckHealth, request, lambda command: check(command, ports()))
