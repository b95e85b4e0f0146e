"""The messages of a play: good ones, and such as can never succeed."""

from __future__ import annotations

import json
from typing import Any

from tests.unit.stepping import MODEL

STEPS_PERCENT = (10, 50)


def training_completed(run: int, strategy: str, request_id: str) -> bytes:
    """Return a message about a run, each better than the one before; a request is asked for."""
    return _message(
        run,
        deploy={
            "when": "if_better" if request_id == "auto" else "always",
            "strategy": strategy,
            "steps_percent": STEPS_PERCENT,
            "over": "6s",
            "request_id": request_id,
        },
    )


def deployment_of(data: bytes) -> tuple[str, str, str]:
    """Return the ids of run, request and deployment that a good message asks for."""
    message = json.loads(data)
    run, request_id = f"{MODEL}-{message['run_number']}", message["deploy"]["request_id"]
    return run, request_id, f"{run}-{request_id}"


def _message(run: int, **fields: Any) -> bytes:
    message = {
        "schema_version": 1,
        "model_id": MODEL,
        "run_number": run,
        "artifact_uri": f"gs://training/run-{run}",
        "metrics": {"recall_at_100": 0.4 + run / 100},
        "completed_at": "2026-11-24T14:00:00Z",
    }
    return json.dumps({**message, **fields}).encode()


POISON = (
    b"not JSON",
    _message(99, model_id="nobodys"),
    _message(99, artifact_uri="gs://somebody-elses/run-99"),
    _message(99, schema_version=7),
    _message(99, deploy={"strategy": "gradual", "steps_percent": [50, 10]}),
)
"""Messages that pass the topic's schema and can never succeed."""
