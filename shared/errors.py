"""Every error the pipeline raises on purpose.

PipelineError
├── InvalidRequest            400  the caller sent something that cannot be understood
├── NotFound                  404  no such model, deployment or version
├── Conflict                  409  the state of the deployment does not allow it
│   ├── TransitionRefused          the state machine has no such transition
│   ├── Superseded                 a newer rollout, rollback or cancel holds the token
│   ├── StateIsOlder               Firestore was restored to a time before Cloud Run's
│   └── NothingToRollBackTo        no earlier healthy version exists
├── Refused                   422  understood, and can never succeed as it is
│   ├── MessageRefused             a training-completed message that cannot be right
│   ├── ArtifactsRefused           the training artifacts are incomplete or changed
│   ├── ModelRefused               the model was loaded and cannot be served
│   ├── PreparationFailed          the job that prepares the model ended without a verdict
│   ├── RevisionFailed             Cloud Run gave up on the new revision
│   └── HealthCheckFailed          the candidate answered, and wrongly
└── Unavailable               503  trying again may succeed
    ├── RevisionNotReady           Cloud Run did not report Ready in time
    ├── TrafficNotApplied          the split was written and is not yet the one served
    └── QuotaExceeded         429  Google Cloud takes no more calls of this project this minute

The workflow retries 429, 500, 502, 503 and 504 (429 for longest); everything else goes straight
to `abort_deployment`, with `detail` as the reason that a person reads.
"""

from __future__ import annotations

from typing import Any, ClassVar


class PipelineError(Exception):
    """Base of all: a stable `code`, an HTTP status, and a message that says what to do."""

    code: ClassVar[str] = "pipeline_error"
    http_status: ClassVar[int] = 500
    title: ClassVar[str] = "The pipeline failed"

    def problem(self) -> dict[str, Any]:
        """Return the error as a problem document (RFC 9457)."""
        return {
            "type": "about:blank",
            "title": self.title,
            "status": self.http_status,
            "code": self.code,
            "detail": told(self),
        }


def told(error: BaseException, said: str = "") -> str:
    """Return `said` (or the error's own text), and what was noted on the error on its way."""
    return "; ".join([said or str(error), *getattr(error, "__notes__", [])])


class InvalidRequest(PipelineError):
    """The request does not have the shape that the function takes."""

    code, http_status, title = "invalid_request", 400, "The request is not valid"


class NotFound(PipelineError):
    """Nothing by that name."""

    code, http_status, title = "not_found", 404, "Not found"


class Conflict(PipelineError):
    """The present state does not allow the request."""

    code, http_status, title = "conflict", 409, "The present state does not allow this"


class TransitionRefused(Conflict):
    """The state machine lists no such transition."""

    code = "transition_refused"

    def __init__(self, deployment_id: str, before: str, after: str) -> None:
        super().__init__(f"deployment {deployment_id!r} is {before}; it cannot become {after}")


class Superseded(Conflict):
    """Somebody newer holds the model's fencing token: this caller must stop."""

    code = "superseded"

    def __init__(self, model_id: str, mine: int | None, current: int) -> None:
        super().__init__(
            f"a newer change of {model_id!r} took over (token {current}, ours {mine}); "
            "this one stops and leaves the traffic alone"
        )


class StateIsOlder(Conflict):
    """The documents are older than what Cloud Run serves: nothing may move by them."""

    code = "state_is_older"

    def __init__(self, model_id: str, seen: str) -> None:
        super().__init__(
            f"the documents of {model_id!r} are older than what Cloud Run serves ({seen}): "
            f"Firestore was restored or lost; run `turnout recover {model_id}`, "
            "nothing is moved until then"
        )


class NothingToRollBackTo(Conflict):
    """There is no earlier version that was ever healthy."""

    code = "nothing_to_roll_back_to"

    def __init__(self, model_id: str) -> None:
        super().__init__(
            f"{model_id!r} has no earlier version to go back to; "
            "publish another training run, or cancel the rollout if one is running"
        )


class Refused(PipelineError):
    """Understood, and it can never succeed as it is: retrying would not help."""

    code, http_status, title = "refused", 422, "This cannot succeed as it is"


class MessageRefused(Refused):
    """A message that passes the schema and still cannot be right."""

    code, title = "message_refused", "The training-completed message cannot be right"


class ArtifactsRefused(Refused):
    """The artifacts are incomplete, or changed while they were copied."""

    code, title = "artifacts_refused", "The training artifacts cannot be deployed"


class ModelRefused(Refused):
    """A task of the preparation loaded the model and says, for people, why it cannot be served."""

    code, title = "model_refused", "The model cannot be served"


class PreparationFailed(Refused):
    """The job that prepares the model ended, and neither prepared nor refused it."""

    code, title = "preparation_failed", "The model could not be prepared"

    def __init__(self, execution: str, message: str, logs: str = "") -> None:
        where = f"; its logs: {logs}" if logs else "; see its logs"
        super().__init__(f"job execution {execution.split('/')[-1]!r}: {message}{where}")


class RevisionFailed(Refused):
    """Cloud Run says that the new revision will not become ready."""

    code, title = "revision_failed", "The new revision did not start"

    def __init__(self, revision: str, message: str) -> None:
        super().__init__(f"revision {revision!r} failed: {message}")


class HealthCheckFailed(Refused):
    """The candidate answered, and the answer is wrong."""

    code, title = "health_check_failed", "The candidate is not healthy"


class Unavailable(PipelineError):
    """A passing fault: the same call may succeed later."""

    code, http_status, title = "unavailable", 503, "Not available just now"


class RevisionNotReady(Unavailable):
    """Cloud Run did not report Ready in time; trying again may succeed."""

    code = "revision_not_ready"

    def __init__(self, revision: str, waited_s: float) -> None:
        super().__init__(f"revision {revision!r} not ready after {waited_s:g} s; see its logs")


class TrafficNotApplied(Unavailable):
    """The split is written, and Cloud Run does not serve it yet."""

    code = "traffic_not_applied"

    def __init__(self, service: str, wanted: str, actual: str, waited_s: float) -> None:
        super().__init__(
            f"{service!r} serves {actual} {waited_s:g} s after {wanted} was written; "
            "the next try or reconcile completes it"
        )


class QuotaExceeded(Unavailable):
    """A quota of Google Cloud is used up: the same call succeeds once its minute is over."""

    code, http_status, title = "quota_exceeded", 429, "A quota of Google Cloud is used up"
