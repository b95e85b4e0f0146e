"""Ask the candidate through its tag URL, before any user sees it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.entry import respond
from functions.steps import edit, step
from shared.domain.deployment import Deployment, StepName
from shared.errors import Conflict, HealthCheckFailed, Unavailable
from shared.messages import CheckHealth
from shared.ports import Ports
from shared.wiring import ports

READY_POLL_S = 1.0
KEY_LIFETIME_S = 3600.0
TOP_K = 10
UNKNOWN_CUSTOMER = "turnout-unknown-customer"


def check(command: CheckHealth, ports: Ports) -> dict[str, Any]:
    """Ready, the right artifacts, golden customers answered, scores finite and ordered.

    Only reads the candidate, so it may run again. HealthCheckFailed says what was wrong;
    afterwards, and only then, the revision may be given traffic.
    """
    with step(command, StepName.HEALTH_CHECKS, ports) as (deployment, recorder):
        url = _tag_url(deployment, ports)
        health = _wait_until_healthy(url, deployment.config.startup_timeout_s, ports)
        _check_identity(deployment, health)
        golden = deployment.config.golden_customers
        with _key(deployment, ports) as key:
            answers = _ask(url, key, [*golden, UNKNOWN_CUSTOMER], health, ports)
        for customer, answer in answers.items():
            check_answer(customer, answer, min(TOP_K, int(health.get("products", TOP_K))))
        edit(command, ports, lambda found: replace(found, healthy=True))
        recorder.detail = (
            f"{deployment.name} answers with the copied artifacts; {len(golden)} golden "
            "customers and an unknown one answered, scores finite and ordered"
        )
    return {"deployment_id": deployment.id, "healthy": True, "golden_customers": len(golden)}


def check_answer(customer: str, answer: Any, expected: int) -> None:
    """HealthCheckFailed unless `answer` is `expected` distinct products, best first.

    `answer` is the list of {"product_id", "score"} that the prediction API returned.
    """
    who = _name(customer)
    if not isinstance(answer, list) or len(answer) != expected:
        count = len(answer) if isinstance(answer, list) else "no"
        raise HealthCheckFailed(f"{who} got {count} recommendations, expected {expected}")
    products = [item.get("product_id") for item in answer]
    scores = [item.get("score") for item in answer]
    if not all(isinstance(product, str) and product for product in products):
        raise HealthCheckFailed(f"{who} got a recommendation without a product id")
    if len(set(products)) != len(products):
        raise HealthCheckFailed(f"{who} got the same product twice")
    if not all(isinstance(score, (int, float)) and math.isfinite(score) for score in scores):
        raise HealthCheckFailed(f"{who} got a score that is not a finite number")
    if any(a < b for a, b in pairwise(scores)):
        raise HealthCheckFailed(f"{who} got recommendations that are not in order of score")


def _name(customer: str) -> str:
    return "the unknown customer" if customer == UNKNOWN_CUSTOMER else f"customer {customer!r}"


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


def _ask(
    url: str, key: str, customers: list[str], health: Mapping[str, Any], ports: Ports
) -> dict[str, Any]:
    top_k = min(TOP_K, int(health.get("products", TOP_K)))
    status, body = ports.predictions.recommend(url, key, customers, top_k)
    if status in (429, 502, 503, 504):
        raise Unavailable(f"the candidate answers {status}: {body.get('detail', '')}")
    if status != 200:
        who = _refused(url, key, customers, top_k, ports)
        raise HealthCheckFailed(
            f"/recommend-batch answers {status} for {who}: {body.get('detail', 'no detail')}"
        )
    results = body.get("results")
    asked = [result.get("customer_id") for result in results] if results else []
    if asked != customers:
        raise HealthCheckFailed(f"asked for {len(customers)} customers, {len(asked)} answered")
    return {result["customer_id"]: result.get("recommendations") for result in results or []}


def _refused(url: str, key: str, customers: list[str], top_k: int, ports: Ports) -> str:
    """Return which customer is not answered alone either; asking again changes nothing."""
    for customer in customers:
        if ports.predictions.recommend(url, key, [customer], top_k)[0] != 200:
            return _name(customer)
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
