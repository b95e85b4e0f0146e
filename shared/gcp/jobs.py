"""Executions of the Cloud Run jobs that prepare models."""

from __future__ import annotations

from collections.abc import Callable

from google.api_core import exceptions
from google.cloud import run_v2

from shared.domain.deployment import Deployment
from shared.errors import NotFound, Refused
from shared.gcp.cloud_run import model_environment, passing, variables
from shared.ports import JobState, JobView

CANCELLED = run_v2.Condition.ExecutionReason.CANCELLED


class RunJobs:
    """Starts, looks at and cancels executions; `parent` is as in RunServices."""

    def __init__(
        self,
        jobs: run_v2.JobsClient,
        executions: run_v2.ExecutionsClient,
        parent: Callable[[str], str],
    ) -> None:
        self._jobs = jobs
        self._executions = executions
        self._parent = parent

    def start(self, deployment: Deployment) -> str:
        """Start one for the deployment; return its resource name.

        The API takes no request id, so a repeat makes a second execution: harmless, because
        what both write is created, never overwritten. NotFound where the model has no job.
        """
        prepare = deployment.config.prepare
        overrides = run_v2.RunJobRequest.Overrides(
            {
                "container_overrides": [{"env": variables(_environment(deployment))}],
                "task_count": prepare.tasks,
            }
        )
        name = f"{self._parent(deployment.model_id)}/jobs/{deployment.config.job}"
        try:
            operation = self._jobs.run_job(
                request=run_v2.RunJobRequest(name=name, overrides=overrides), timeout=60
            )
        except exceptions.NotFound:
            raise NotFound(
                f"Cloud Run has no job {deployment.config.job!r}; "
                "apply Terraform for this model first"
            ) from None
        except exceptions.InvalidArgument as error:
            raise Refused(f"Cloud Run refused to run the job: {error.message}") from error
        # The operation ends when the execution does; its metadata is the execution at once.
        return str(operation.metadata.name)

    def execution(self, name: str) -> JobView | None:
        """Return an execution as it is now, or None."""
        try:
            found = self._executions.get_execution(name=name, retry=passing, timeout=10)
        except exceptions.NotFound:
            return None
        state, message = _outcome(found)
        return JobView(state, message, found.succeeded_count, found.task_count, found.log_uri)

    def cancel(self, name: str) -> None:
        """Ask it to stop, without waiting; one that ended, or is unknown, stays as it is."""
        try:
            self._executions.cancel_execution(name=name, timeout=30)
        except (exceptions.NotFound, exceptions.FailedPrecondition):
            return


def _environment(deployment: Deployment) -> dict[str, str]:
    prepare, retrieval = deployment.config.prepare, deployment.config.retrieval
    return {
        **model_environment(deployment),
        "PREPARED_TOP_K": str(prepare.top_k),
        "PREPARED_CUSTOMERS": str(prepare.customers or ""),
        "MINIMUM_RECALL": str(retrieval.minimum_recall),
    }


def _outcome(found: run_v2.Execution) -> tuple[JobState, str]:
    """Return the state and Cloud Run's words: of the end, or of what it waits for."""
    states = run_v2.Condition.State
    for condition in found.conditions:
        if condition.type_ != "Completed":
            continue
        if condition.state == states.CONDITION_SUCCEEDED:
            return JobState.SUCCEEDED, condition.message
        if condition.state == states.CONDITION_FAILED:
            by_hand = condition.execution_reason == CANCELLED
            return JobState.CANCELLED if by_hand else JobState.FAILED, condition.message
        return JobState.RUNNING, condition.message
    return JobState.RUNNING, "Cloud Run has not said anything about it yet"
