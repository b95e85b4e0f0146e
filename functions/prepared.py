"""What the tasks of `prepare_model` leave beside the artifacts, and the manifest made of it.

Each task writes its files and then, last, its verdict, `task-00000-of-00004.json`: what it
wrote, or why the model cannot be served. All of it is created, never overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from functions.copy_artifacts import PREPARED, digest_of
from shared.domain.deployment import Deployment
from shared.errors import PreparationFailed
from shared.messages import explain
from shared.ports import Ports

MANIFEST = PREPARED + "manifest.json"


class PreparedFile(BaseModel):
    """One file that a task wrote, with its path below the version's own."""

    model_config = ConfigDict(frozen=True)

    path: str
    size: int
    crc32c: str
    generation: int


class Verdict(BaseModel):
    """A task's last word; `refused` is the reason, for people, of a model that cannot be served.

    `customers` counts those whose answers this task prepared; `recall` (0-1) is the index's.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1]
    digest: str
    task: Annotated[int, Field(ge=0)]
    tasks: Annotated[int, Field(ge=1)]
    refused: str
    code: str
    files: tuple[PreparedFile, ...] = ()
    products: int | None = None
    customers: int | None = None
    top_k: int | None = None
    recall: float | None = None


def read_verdicts(
    deployment: Deployment, known: Mapping[int, Verdict], ports: Ports
) -> dict[int, Verdict]:
    """Return the verdicts by task: those known and those that came since, in order.

    PreparationFailed where one cannot be right.
    """
    bucket, prefix = place(deployment)
    tasks = deployment.config.prepare.tasks
    names = [f"{prefix}{PREPARED}task-{task:05d}-of-{tasks:05d}.json" for task in range(tasks)]
    there = {stored.name for stored in ports.objects.list(bucket, f"{prefix}{PREPARED}task-")}
    verdicts = dict(known)
    for task, name in enumerate(names):
        if name in there and task not in known:
            content = ports.objects.read(bucket, name) or b""
            verdicts[task] = _parse(task, name, content, deployment)
    return dict(sorted(verdicts.items()))


def manifest_of(
    deployment: Deployment, by_task: Mapping[int, Verdict], ports: Ports
) -> dict[str, Any]:
    """Return the manifest: every file that the tasks wrote, pinned by its generation.

    PreparationFailed where a verdict is missing, two of them contradict each other, or a
    file is not there as its verdict says.
    """
    tasks, verdicts = deployment.config.prepare.tasks, list(by_task.values())
    if missing := [task for task in range(tasks) if task not in by_task]:
        raise _failed(deployment, f"it succeeded, and no verdict is there of the tasks {missing}")
    files = sorted((file for one in verdicts for file in one.files), key=lambda file: file.path)
    _check_files(deployment, files, ports)
    listed = [file.model_dump() for file in files]
    recalls = [one.recall for one in verdicts if one.recall is not None]
    return {
        "schema_version": 1,
        "model_digest": deployment.artifact_digest,
        "top_k": _agreed(deployment, "top_k", [one.top_k or 0 for one in verdicts]),
        "customers": sum(one.customers or 0 for one in verdicts),
        "products": _agreed(deployment, "products", [one.products or 0 for one in verdicts]),
        "tasks": tasks,
        "recall": min(recalls, default=None),
        "files": listed,
        "digest": digest_of(listed),
    }


def place(deployment: Deployment) -> tuple[str, str]:
    """Return the bucket and the prefix of the version's artifacts."""
    bucket, _, prefix = deployment.serving_model_path.removeprefix("gs://").partition("/")
    return bucket, prefix


def _parse(task: int, name: str, content: bytes, deployment: Deployment) -> Verdict:
    try:
        verdict = Verdict.model_validate_json(content)
    except ValidationError as error:
        raise _failed(deployment, f"{name} is no verdict: {explain(error)}") from None
    wanted = (deployment.artifact_digest, task, deployment.config.prepare.tasks)
    if (verdict.digest, verdict.task, verdict.tasks) != wanted:
        raise _failed(deployment, f"{name} is the verdict of another preparation")
    return verdict


def _check_files(deployment: Deployment, files: Sequence[PreparedFile], ports: Ports) -> None:
    bucket, prefix = place(deployment)
    there = {
        PreparedFile(
            path=stored.name.removeprefix(prefix),
            size=stored.size,
            crc32c=stored.crc32c,
            generation=stored.generation,
        )
        for stored in ports.objects.list(bucket, prefix + PREPARED)
    }
    for file in files:
        if file not in there:
            raise _failed(deployment, f"{file.path} is not there as its task wrote it")


def _agreed(deployment: Deployment, name: str, values: Sequence[int]) -> int:
    if len(set(values)) != 1:
        raise _failed(deployment, f"its tasks contradict each other: {name} is {values}")
    return values[0]


def _failed(deployment: Deployment, message: str) -> PreparationFailed:
    return PreparationFailed(deployment.prepare_execution, message)
