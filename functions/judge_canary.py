"""While a stage bakes: may the rollout go on?"""

from __future__ import annotations

from typing import Any

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.entry import respond
from functions.steps import edit
from shared.domain.bake import judge
from shared.messages import JudgeCanary
from shared.ports import Ports
from shared.wiring import ports


def look(command: JudgeCanary, ports: Ports) -> dict[str, Any]:
    """Answer wait or advance. Only reads, so it may be asked again at any time.

    Superseded once a rollback, a cancel or a newer rollout took over.
    """
    deployment = edit(command, ports, lambda found: found)
    verdict = judge(deployment, ports.clock.now())
    return {
        "deployment_id": deployment.id,
        "answer": verdict.answer.value,
        "wait_s": verdict.wait_s,
        "why": verdict.why,
    }


@functions_framework.http
def judge_canary(request: flask.Request) -> ResponseReturnValue:
    """Say whether the rollout may leave the stage it is in (asked again and again)."""
    return respond(JudgeCanary, request, lambda command: look(command, ports()))
