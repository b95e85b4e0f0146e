"""`python -m serving prepare`: one task of the job that prepares a version's answers.

It loads the model as the container will, so a model that cannot be served is refused here, before
any revision exists; then it asks it for every customer of its shard and writes the answers down.

Everything is written under names of its own that must not exist yet, the verdict last. So a task
that is tried again, or run twice, finds what is there and changes nothing.
"""

from __future__ import annotations

import logging
import logging.config
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson

from serving.artifacts import ArtifactSource, ManifestFile
from serving.cpus import cpus_given
from serving.errors import (
    ArtifactUnavailable,
    InvalidConfiguration,
    LoadError,
    ModelContractError,
    ModelError,
    ModelWarmUpError,
)
from serving.loading import CUSTOMERS
from serving.logs import log, logging_config
from serving.prepared import FOLDER, INDEX, TABLE_SUFFIX
from serving.recommender import Recommender
from serving.settings import Settings, read_integer, read_settings
from serving.table import LONGEST_ID_BYTES, MOST_ITEMS, TableWriter, shard_of
from serving.timings import Timings

CUSTOMERS_AT_ONCE = 1_024
# The approximate index's recall is measured on so many customers, spread over the list.
MEASURED_CUSTOMERS = 1_000
PROGRESS_EVERY_S = 10.0


class Shelf(ArtifactSource, Protocol):
    """Where a version's files are, and where what is prepared is put."""

    def create(self, path: str, content: bytes | Path) -> ManifestFile | None:
        """Write a file that must not exist yet; None where it does. ArtifactUnavailable."""

    def find(self, path: str) -> ManifestFile | None:
        """Return what a file is, or None where there is none; raises ArtifactUnavailable."""


@dataclass(frozen=True)
class Task:
    """Which shard of which preparation this is; `most_customers` None is all of them."""

    number: int
    count: int
    top_k: int
    most_customers: int | None
    minimum_recall: float

    @property
    def verdict(self) -> str:
        """The name of the verdict's file."""
        return f"{FOLDER}/task-{self._of}.json"

    @property
    def table(self) -> str:
        """The name of the shard's file."""
        return f"{FOLDER}/answers-{self._of}{TABLE_SUFFIX}"

    @property
    def _of(self) -> str:
        return f"{self.number:05}-of-{self.count:05}"


def read_task(env: Mapping[str, str]) -> Task:
    """Return the task in `env`; raises InvalidConfiguration naming the variable."""
    count = read_integer(env, "CLOUD_RUN_TASK_COUNT") if "CLOUD_RUN_TASK_COUNT" in env else 1
    number = read_integer(env, "CLOUD_RUN_TASK_INDEX") if "CLOUD_RUN_TASK_INDEX" in env else 0
    if not 0 <= number < count:
        raise InvalidConfiguration(f"CLOUD_RUN_TASK_INDEX is {number} of {count} tasks")
    top_k = read_integer(env, "PREPARED_TOP_K")
    if top_k > MOST_ITEMS:
        raise InvalidConfiguration(f"PREPARED_TOP_K is {top_k}; it must be 0 to {MOST_ITEMS}")
    most = read_integer(env, "PREPARED_CUSTOMERS") if env.get("PREPARED_CUSTOMERS") else None
    try:
        minimum_recall = float(env.get("MINIMUM_RECALL") or 0.95)
    except ValueError as error:
        raise InvalidConfiguration(f"MINIMUM_RECALL: {error}") from error
    if not 0 <= minimum_recall <= 1:
        raise InvalidConfiguration(f"MINIMUM_RECALL is {minimum_recall}; it must be 0 to 1")
    return Task(number, count, top_k, most, minimum_recall)


def prepare() -> int:
    """Run the task of the environment; return the exit code: 0 done, 1 refused or to try again."""
    logging.config.dictConfig(logging_config())
    timings = Timings()
    about: dict[str, Any] = {}
    try:
        settings, task = read_settings(os.environ), read_task(os.environ)
        if settings.artifact is None:
            raise InvalidConfiguration("MODEL_PATH is not set; there is no model to prepare")
        about = {
            "model_id": settings.model_id,
            "model_version": settings.model_version,
            "task": task.number,
            "tasks": task.count,
        }
        from serving.bucket import Bucket

        shelf = Bucket(settings.artifact.bucket, settings.artifact.prefix)
        with tempfile.TemporaryDirectory(prefix="prepare-") as folder:
            refused = run(settings, task, shelf, Path(folder), timings)
    except LoadError as error:
        log("ERROR", "preparing failed", code=error.code, reason=str(error), **about)
        return 1
    if refused:
        log("ERROR", "model refused", reason=refused, **about)
        return 1
    log("INFO", "prepared", **about, **timings.parts)
    return 0


def run(settings: Settings, task: Task, shelf: Shelf, folder: Path, timings: Timings) -> str:
    """Prepare the task's shard; return why the model is refused, or "".

    Raises ArtifactUnavailable or InvalidConfiguration where trying again may help.
    """
    assert settings.artifact is not None
    if shelf.find(task.verdict):
        return _refusal(shelf, task)
    verdict: dict[str, Any] = {
        "schema_version": 1,
        "digest": settings.artifact.digest,
        "task": task.number,
        "tasks": task.count,
        "refused": "",
        "code": "",
        "files": [],
        "products": 0,
        "customers": 0,
        "top_k": 0,
        "recall": None,
    }
    try:
        verdict |= _prepare(settings, task, shelf, folder, timings)
    except (ArtifactUnavailable, InvalidConfiguration):
        raise
    except LoadError as error:
        verdict |= {"refused": str(error), "code": error.code}
    if shelf.create(task.verdict, orjson.dumps(verdict, option=orjson.OPT_INDENT_2)) is None:
        # The same task ran twice at a time: what the other found stands.
        return _refusal(shelf, task)
    return str(verdict["refused"])


def _refusal(shelf: Shelf, task: Task) -> str:
    return str(orjson.loads(shelf.read(task.verdict))["refused"])


def _prepare(
    settings: Settings, task: Task, shelf: Shelf, folder: Path, timings: Timings
) -> dict[str, Any]:
    """Write what is asked for; return the verdict's fields. Raises LoadError."""
    from serving.loading import load_model, read_customers

    artifact = folder / "artifact"
    model = load_model(settings, shelf, artifact, cpus_given(), timings)
    customers = read_customers(artifact) or []
    fields: dict[str, Any] = {"products": model.products}
    files = []
    top_k = min(task.top_k, model.products)
    if top_k and customers:
        mine = [
            customer_id
            for customer_id in dict.fromkeys(customers[: task.most_customers])
            if shard_of(customer_id, task.count) == task.number
            and len(customer_id.encode()) <= LONGEST_ID_BYTES
        ]
        path = folder / "answers"
        written = timings.measure(
            "answers", lambda: write(settings, task, model, mine, top_k, path)
        )
        files.append(timings.measure("upload", lambda: _put(shelf, task.table, path)))
        fields |= {"customers": written, "top_k": top_k}
    if settings.retrieval == "approximate" and task.number == 0:
        path = folder / "index"
        fields["recall"] = timings.measure("index", lambda: _index(task, model, customers, path))
        files.append(_put(shelf, INDEX, path))
    return {**fields, "files": [file.model_dump() for file in files]}


def _index(task: Task, model: Recommender, customers: Sequence[str], path: Path) -> float:
    """Write the approximate index and return its recall; raises LoadError."""
    from serving import approximate
    from serving.predictor import RetrievingRecommender
    from serving.warm_up import sample

    if not isinstance(model, RetrievingRecommender):
        raise ModelContractError(
            "approximate retrieval needs candidates() whose inner products with the customers' "
            "embeddings are the index's scores; set retrieval.kind to exact"
        )
    if not customers:
        raise ModelContractError(
            f"approximate retrieval needs {CUSTOMERS}: recall is measured on known customers"
        )
    some = sample(customers, MEASURED_CUSTOMERS)
    index, recall = approximate.build(
        model.exact, model.embed(some), task.minimum_recall, cpus_given()
    )
    approximate.save(index, path)
    return recall


def write(
    settings: Settings,
    task: Task,
    model: Recommender,
    customers: Sequence[str],
    top_k: int,
    path: Path,
) -> int:
    """Write the customers' answers as a table; ModelWarmUpError where one has none.

    Returns how many: customers that the model does not know are left to it, as their answers
    say so.
    """
    from serving.rendering import Renderer

    assert settings.artifact is not None
    renderer = Renderer()
    table = TableWriter(
        path, settings.artifact.digest, task.number, task.count, top_k, len(customers)
    )
    told_at = time.monotonic()
    for begin in range(0, len(customers), CUSTOMERS_AT_ONCE):
        asked = customers[begin : begin + CUSTOMERS_AT_ONCE]
        try:
            answer = model.answer(asked, top_k)
            rendered = renderer.items(answer)
        except ModelError as error:
            raise ModelWarmUpError(f"{error} (while preparing the known customers)") from error
        known = [True] * len(asked) if answer.known is None else answer.known.tolist()
        for customer_id, items, is_known in zip(asked, rendered, known, strict=True):
            if is_known:
                table.add(customer_id, items)
        if time.monotonic() > told_at + PROGRESS_EVERY_S:
            told_at = time.monotonic()
            log("INFO", "preparing", customers=begin + len(asked), of=len(customers))
    table.close()
    return table.customers


def _put(shelf: Shelf, path: str, content: Path) -> ManifestFile:
    """Write the shard, or return the one that an earlier try has written."""
    file = shelf.create(path, content) or shelf.find(path)
    if file is None:
        raise ArtifactUnavailable(f"{path} was there and is gone; something else removes files")
    return file
