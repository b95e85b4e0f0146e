"""While a stage bakes: how does the candidate do, and may the rollout go on?"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.entry import respond
from shared import logs
from shared.domain import canary
from shared.domain.bake import Answer, Decision, decide, longest_s
from shared.domain.canary import Judgement, Verdict, Window
from shared.domain.deployment import Deployment, Event
from shared.domain.model import Book, holds
from shared.domain.policy import Checking
from shared.errors import Conflict, Unavailable
from shared.messages import JudgeCanary
from shared.ports import JudgePorts, Ports
from shared.wiring import judge_ports, ports

DUE_AT = 0.25
"""The part of the time for an approval that is left when people are told that it ends."""


def look(command: JudgeCanary, ports: Ports, judging: JudgePorts) -> dict[str, Any]:
    """Answer wait, advance, hold or abort. It may be asked again at any time.

    Superseded once a rollback, a cancel or a newer rollout took over.
    """
    deployment = ports.state.deployment(command.deployment_id)
    now = ports.clock.now()
    judgement, blocks = _judge(deployment, now, judging)

    def move(book: Book) -> tuple[Decision, Deployment]:
        # A repeat writes the same judgement over itself, and keeps the begin of a hold. What
        # a person said while Monitoring was asked counts already.
        found = book.deployment(deployment.id)
        holds(book, found)
        if found.execution != command.execution:
            raise Conflict(f"{found.id!r} belongs to execution {found.execution!r}")
        if found.stage_started_at != deployment.stage_started_at:
            # The late repeat of a call that timed out: another stage has begun since.
            return Decision(Answer.WAIT, 0.0, "another stage has begun"), found
        decision = decide(found, judgement, now)
        noted = _with_hold(book, found, decision, now)
        if judgement:
            noted = _with_judgement(book, noted, judgement, blocks, now)
        if noted != found:
            book.put(noted)
        return decision, noted

    decision, noted = ports.state.change(deployment.model_id, move)
    if decision.answer is Answer.HOLD:
        _log_hold(noted, now)
    return {
        "deployment_id": deployment.id,
        "answer": decision.answer.value,
        "wait_s": decision.wait_s,
        "why": decision.why,
    }


def _log_hold(deployment: Deployment, now: datetime) -> None:
    """Write, once most of the time for an approval is over, that it ends soon in an abort."""
    limit_s = deployment.policy.hold.limit_s
    left_s = limit_s - (now - (deployment.holding_since or now)).total_seconds()
    if left_s <= limit_s * DUE_AT:
        logs.log(
            "approval is due",
            severity="WARNING",
            model_id=deployment.model_id,
            deployment_id=deployment.id,
            left_s=round(left_s),
        )


def _with_hold(book: Book, found: Deployment, decision: Decision, now: datetime) -> Deployment:
    if decision.answer is not Answer.HOLD:
        return replace(found, holding_since=None)
    if found.holding_since is None:
        book.record(_event(found, "holding", decision.why, now))
    return replace(found, holding_since=found.holding_since or now)


def _with_judgement(
    book: Book, found: Deployment, judgement: Judgement, blocks: int, now: datetime
) -> Deployment:
    """Return it with the judgement; `at` is when it was first said. A new verdict is an event."""
    before = found.judgement
    said = {
        "verdict": judgement.verdict.value,
        "why": judgement.why,
        "numbers": dict(judgement.numbers),
        "blocks": blocks,
    }
    if judgement.verdict != before.get("verdict", Verdict.INCONCLUSIVE):
        why = f"{judgement.verdict} at {found.traffic_percent} %: {judgement.why}"
        book.record(_event(found, "judged", why, now))
    if all(before.get(name) == value for name, value in said.items()):
        return found
    return replace(found, judgement={**said, "at": now})


def _judge(
    deployment: Deployment, now: datetime, judging: JudgePorts
) -> tuple[Judgement | None, int]:
    """Return the judgement of the stage so far and how many blocks it is made of.

    Until another block can be seen, the last one stands and nobody is asked.
    """
    policy = deployment.policy.canary
    if policy.judge is Checking.OFF or deployment.stage_started_at is None:
        return None, 0
    window = canary.window(deployment.stage_started_at, now, longest_s(deployment), policy)
    if not window.visible:
        why = f"the first {window.block_s} s have not been measured yet"
        return Judgement(Verdict.INCONCLUSIVE, why), 0
    last = deployment.judgement
    if last and last["blocks"] == window.visible:
        return Judgement(Verdict(last["verdict"]), last["why"], last["numbers"]), window.visible
    try:
        own = _measure(deployment, window, judging)
    except Unavailable as error:
        # No count of blocks: the next poll asks again.
        return Judgement(Verdict.INCONCLUSIVE, str(error)), 0
    if own.verdict is Verdict.FAIL:
        return own, window.visible
    facts = {**own.numbers, **_facts(deployment)}
    others = [judging.judges.ask(url, facts) for url in policy.webhooks]
    said = canary.combine([own, *others])
    return replace(said, numbers=own.numbers), window.visible


def _measure(deployment: Deployment, window: Window, judging: JudgePorts) -> Judgement:
    service = deployment.config.service
    measured = judging.requests.window(service, window.begin, window.block_s, window.blocks)
    empty = f"{service}-v0-1"
    candidate = deployment.cloud_run_revision
    live = [
        name
        for name, share in deployment.snapshot.items()
        if share and name not in (candidate, empty)
    ]
    blocks, before = canary.sides(measured, window, candidate, live)
    return canary.judge(blocks, before, bool(live), deployment.policy.canary)


def _facts(deployment: Deployment) -> dict[str, Any]:
    began = deployment.stage_started_at
    return {
        "deployment_id": deployment.id,
        "model_id": deployment.model_id,
        "version": deployment.name,
        "percent": deployment.traffic_percent,
        "stage_began": began.isoformat() if began else None,
    }


def _event(deployment: Deployment, action: str, why: str, now: datetime) -> Event:
    return Event(deployment.id, deployment.model_id, now, "pipeline", action, why)


@functions_framework.http
def judge_canary(request: flask.Request) -> ResponseReturnValue:
    """Say whether the rollout may leave the stage it is in (asked again and again)."""
    return respond(JudgeCanary, request, lambda command: look(command, ports(), judge_ports()))
