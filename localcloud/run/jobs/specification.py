"""A job's writable half: what is refused, what is filled in, what a run may override."""

from __future__ import annotations

from typing import Any

from google.api import launch_stage_pb2
from google.cloud import run_v2

from localcloud.run import template as templates
from localcloud.run.errors import InvalidArgument, Unsupported
from localcloud.run.messages import Job

WRITABLE = ("labels", "annotations", "client", "client_version", "launch_stage", "template")
UNSUPPORTED = ("binary_authorization", "start_execution_token", "run_execution_token")

DEFAULT_MAX_RETRIES = 3
MAX_RETRIES = 10
MAX_TASKS = 10_000
DEFAULT_TIMEOUT_S = 600
MAX_TIMEOUT_S = 7 * 24 * 3600

RESERVED_ENVIRONMENT = frozenset(
    {
        "CLOUD_RUN_JOB",
        "CLOUD_RUN_EXECUTION",
        "CLOUD_RUN_TASK_INDEX",
        "CLOUD_RUN_TASK_ATTEMPT",
        "CLOUD_RUN_TASK_COUNT",
    }
)
_UNSUPPORTED_IN_TASK = (
    "volumes",
    "encryption_key",
    "vpc_access",
    "node_selector",
    "gpu_zonal_redundancy_disabled",
)
# A task serves nothing, so there is nothing to probe and nothing to listen on.
_UNSUPPORTED_IN_CONTAINER = (*templates.UNSUPPORTED_IN_CONTAINER, "ports", "startup_probe")
_SECOND_GENERATION = int(run_v2.ExecutionEnvironment.EXECUTION_ENVIRONMENT_GEN2)


def merged(current: Any, given: Any) -> Any:
    """Return `current` with every writable field of `given`; one that it leaves out is cleared.

    The API has no mask for jobs: a write is always the whole specification.
    """
    templates.refuse_unknown_fields(given, "job")
    templates.refuse_set_fields(given, UNSUPPORTED, "job.")
    result, writable = Job(), Job()
    result.CopyFrom(current)
    writable.CopyFrom(given)
    for field in Job.DESCRIPTOR.fields:
        (result if field.name in WRITABLE else writable).ClearField(field.name)
    result.MergeFrom(writable)
    return _completed(result)


def _completed(job: Any) -> Any:
    """Fill in Cloud Run's defaults, which the job then shows."""
    job.launch_stage = job.launch_stage or launch_stage_pb2.LaunchStage.Value("GA")
    job.template.task_count = job.template.task_count or 1
    task = job.template.template
    if not task.HasField("max_retries"):
        task.max_retries = DEFAULT_MAX_RETRIES
    if not task.HasField("timeout"):
        task.timeout.seconds = DEFAULT_TIMEOUT_S
    task.execution_environment = task.execution_environment or _SECOND_GENERATION
    for container in task.containers:
        templates.complete_limits(container)
    return job


def check(job: Any) -> None:
    """Raise InvalidArgument or Unsupported unless the completed job can be run here."""
    templates.check_annotations(job.annotations, "job annotation")
    templates.check_annotations(job.labels, "job label")
    check_template(job.template)


def check_template(template: Any) -> None:
    """Raise InvalidArgument or Unsupported unless executions of the template can be run here."""
    templates.check_annotations(template.annotations, "template annotation")
    templates.check_annotations(template.labels, "template label")
    if not 1 <= template.task_count <= MAX_TASKS:
        raise InvalidArgument(f"task_count must be 1 to {MAX_TASKS}, got {template.task_count}")
    if template.parallelism < 0:
        raise InvalidArgument(f"parallelism must not be negative, got {template.parallelism}")
    task = template.template
    templates.refuse_set_fields(task, _UNSUPPORTED_IN_TASK, "template.template.")
    if not 0 <= task.max_retries <= MAX_RETRIES:
        raise InvalidArgument(f"max_retries must be 0 to {MAX_RETRIES}, got {task.max_retries}")
    if not 0 < task.timeout.seconds <= MAX_TIMEOUT_S or task.timeout.nanos:
        raise InvalidArgument(f"timeout must be whole seconds, 1 to {MAX_TIMEOUT_S}")
    if task.execution_environment != _SECOND_GENERATION:
        raise InvalidArgument("jobs run in the second generation execution environment only")
    container = templates.only_container(task)
    templates.refuse_set_fields(container, _UNSUPPORTED_IN_CONTAINER, "container.")
    templates.check_container(container, RESERVED_ENVIRONMENT)


def overridden(template: Any, overrides: Any) -> Any:
    """Return a checked copy of a completed template as one run of it shall be."""
    result = type(template)()
    result.CopyFrom(template)
    if overrides.task_count < 0:
        raise InvalidArgument(f"overrides.task_count is negative: {overrides.task_count}")
    result.task_count = overrides.task_count or result.task_count
    if overrides.HasField("timeout"):
        result.template.timeout.CopyFrom(overrides.timeout)
    if len(overrides.container_overrides) > 1:
        raise Unsupported("overrides.container_overrides for more than one container (sidecars)")
    for override in overrides.container_overrides:
        _override(result.template.containers[0], override)
    check_template(result)
    return result


def _override(container: Any, override: Any) -> None:
    if override.name not in ("", container.name):
        raise InvalidArgument(
            f"overrides.container_overrides: the job has no container {override.name!r}"
        )
    if override.clear_args and override.args:
        raise InvalidArgument("overrides.container_overrides: give args or clear_args, not both")
    if override.clear_args or override.args:
        container.args[:] = override.args
    names = [variable.name for variable in override.env]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InvalidArgument(f"overrides env names must be given once: {sorted(twice)}")
    kept = [variable for variable in container.env if variable.name not in names]
    replaced = [*kept, *override.env]
    del container.env[:]
    container.env.extend(replaced)
