"""Preparing a version's answers: a shelf written by hand, real models, and every way to go wrong.

Tasks run in a process of their own: how many threads TensorFlow uses can be said only once, before
anything else, and other tests of this process have used it.
"""

from __future__ import annotations

import base64
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import google_crc32c
import orjson
import pytest

from serving.artifacts import ManifestFile, digest_of
from serving.cpus import cpus_given
from serving.errors import ArtifactMismatch, ArtifactUnavailable, InvalidConfiguration
from serving.predictor import use_cpus
from serving.prepare import Task, read_task, run
from serving.prepared import MANIFEST, Prepared, fetch_prepared
from serving.settings import Artifact, Settings
from serving.table import LONGEST_ID_BYTES, Table, Tables
from serving.timings import Timings
from tests import models
from tests.unit.test_serving_table import find

LIMIT_S = 120.0
ENV = {"PREPARED_TOP_K": "20"}


@dataclass
class Shelf:
    """A version's files in memory, each with its generation; those in `away` cannot be reached.

    `rival` is written under each new file's name just before it is created.
    """

    files: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    rival: dict[str, bytes] = field(default_factory=dict)

    def put(self, path: str, content: bytes) -> ManifestFile:
        self.files[path] = (1_000 + len(self.files), content)
        return self.described(path)

    def described(self, path: str) -> ManifestFile:
        generation, content = self.files[path]
        crc32c = base64.b64encode(google_crc32c.Checksum(content).digest()).decode()
        return ManifestFile(path=path, size=len(content), crc32c=crc32c, generation=generation)

    def read(self, path: str) -> bytes:
        self._reach(path)
        return self.files[path][1]

    def fetch(self, path: str, generation: int, target: Path) -> None:
        self._reach(path)
        assert self.files[path][0] == generation
        target.write_bytes(self.files[path][1])

    def create(self, path: str, content: bytes | Path) -> ManifestFile | None:
        self._reach(path)
        if path in self.rival:
            self.put(path, self.rival[path])
        if path in self.files:
            return None
        return self.put(path, content.read_bytes() if isinstance(content, Path) else content)

    def find(self, path: str) -> ManifestFile | None:
        self._reach(path)
        return self.described(path) if path in self.files else None

    def verdict(self, task: Task) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.files[task.verdict][1])
        return found

    def prepared(self) -> dict[str, tuple[int, bytes]]:
        return {path: file for path, file in self.files.items() if path.startswith("prepared/")}

    def _reach(self, path: str) -> None:
        if path in self.away:
            raise ArtifactUnavailable(f"{path} could not be reached")


def begin() -> None:
    """Begin to use TensorFlow as a task does."""
    import tensorflow as tf

    use_cpus(tf, cpus_given())


def stored(write: Callable[[Path], None], customers: list[str] | None = None) -> Shelf:
    """Return a shelf with a model on it, as it was copied; `customers` replaces its list."""
    shelf = Shelf()
    with TemporaryDirectory() as folder:
        write(Path(folder))
        if customers is not None:
            (Path(folder) / "customers.txt").write_text("".join(f"{id_}\n" for id_ in customers))
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            shelf.put(str(path.relative_to(folder)), path.read_bytes())
    files = [shelf.described(path) for path in shelf.files]
    manifest = {
        "schema_version": 1,
        "model_id": "movies",
        "version": 3,
        "training_run": 47,
        "source": "gs://training/movies/run-47",
        "files": [file.model_dump() for file in files],
        "digest": digest_of(files),
    }
    shelf.put("manifest.json", orjson.dumps(manifest))
    return shelf


def run_task(settings: Settings, task: Task, shelf: Shelf) -> tuple[str | Exception, Shelf]:
    """Run a task; return its answer or its error, and the shelf as it left it."""
    with TemporaryDirectory() as folder:
        try:
            return run(settings, task, shelf, Path(folder), Timings()), shelf
        except Exception as error:
            return error, shelf


def answers_of(shelf: Shelf, customers: list[str], k: int) -> list[list[tuple[str, float]]]:
    """Return what the shelf's model answers by its own index, asked for one customer at a time."""
    import tensorflow as tf

    with TemporaryDirectory() as folder:
        for path, (_, content) in shelf.files.items():
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).write_bytes(content)
        model = tf.saved_model.load(str(Path(folder) / "saved_model"))
        rows = []
        for customer in customers:
            embedding = model.query_model({"user_id": tf.constant([customer])})
            scores, ids = model.brute_force_index(embedding, tf.constant(k))
            names = [id_.decode() for id_ in ids[0].numpy()]
            rows.append(list(zip(names, scores[0].numpy().tolist(), strict=True)))
        return rows


class Job:
    """Runs tasks with the settings of a shelf's model."""

    def __init__(self, processes: ProcessPoolExecutor) -> None:
        self._processes = processes

    def stored(self, write: Callable[[Path], None], customers: list[str] | None = None) -> Shelf:
        return self._processes.submit(stored, write, customers).result(LIMIT_S)

    def run(self, shelf: Shelf, task: Task, **changes: Any) -> tuple[str | Exception, Shelf]:
        found = self._processes.submit(run_task, settings(shelf, **changes), task, shelf)
        return found.result(LIMIT_S)

    def prepared(self, shelf: Shelf, *tasks: Task, **changes: Any) -> Shelf:
        """Run tasks that must succeed; returns the shelf with what they wrote."""
        for task in tasks:
            refused, shelf = self.run(shelf, task, **changes)
            assert refused == "", refused
        return shelf

    def answers_of(self, *arguments: Any) -> list[list[tuple[str, float]]]:
        return self._processes.submit(answers_of, *arguments).result(LIMIT_S)


def settings(shelf: Shelf, **changes: Any) -> Settings:
    digest = orjson.loads(shelf.files["manifest.json"][1])["digest"]
    return Settings(
        model_id="movies",
        model_version="v3",
        training_run=47,
        artifact=Artifact("bucket", "models/movies/v3/", digest),
        host="127.0.0.1",
        port=8080,
        project=None,
        **changes,
    )


def a_task(number: int = 0, count: int = 1, **changes: Any) -> Task:
    return replace(Task(number, count, 20, None, 0.95), **changes)


def tables(shelf: Shelf, folder: Path) -> Tables:
    """Map the tables on a shelf."""
    paths = []
    for name, (_, content) in shelf.files.items():
        if name.endswith(".table"):
            paths.append(folder / name.replace("/", "-"))
            paths[-1].write_bytes(content)
    digest = orjson.loads(shelf.files["manifest.json"][1])["digest"]
    return Tables(map(Table, paths), digest)


@pytest.fixture(scope="module")
def job() -> Iterator[Job]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), begin) as processes:
        yield Job(processes)


@pytest.fixture(scope="module")
def good(job: Job) -> Shelf:
    """The good model, of which nothing is prepared yet."""
    return job.stored(models.write_good)


def test_tasks_together_prepare_each_customer_once_as_the_model_answers(
    job: Job, good: Shelf, tmp_path: Path
) -> None:
    tasks = [a_task(number, 3) for number in range(3)]
    shelf = job.prepared(good, *tasks)
    verdicts = [shelf.verdict(task) for task in tasks]
    for task, verdict in zip(tasks, verdicts, strict=True):
        assert {**verdict, "customers": None} == {
            "schema_version": 1,
            "digest": settings(good).artifact.digest,  # type: ignore[union-attr]
            "task": task.number,
            "tasks": 3,
            "refused": "",
            "code": "",
            "files": [shelf.described(task.table).model_dump()],
            "products": len(models.PRODUCTS),
            "customers": None,
            "top_k": 20,
            "recall": None,
        }
    assert sum(verdict["customers"] for verdict in verdicts) == len(models.CUSTOMERS)
    found = tables(shelf, tmp_path)
    assert found.customers == len(models.CUSTOMERS)
    expected = job.answers_of(good, models.CUSTOMERS, 20)
    for customer, row in zip(models.CUSTOMERS, expected, strict=True):
        for k in range(1, 21):
            answer = orjson.loads((find(found, customer, k) or b"") + b"}")
            assert answer["customer_id"] == customer
            assert [item["product_id"] for item in answer["recommendations"]] == [
                id_ for id_, _ in row[:k]
            ]
            # A sum near zero has the rounding of its parts, which are as large as the best.
            assert [item["score"] for item in answer["recommendations"]] == pytest.approx(
                [score for _, score in row[:k]], rel=1e-6, abs=1e-6 * row[0][1]
            )
    assert find(found, "nobody", 1) is None


def test_repeat_changes_nothing_and_needs_no_model(job: Job, good: Shelf) -> None:
    before = job.prepared(good, a_task())
    without_model = replace(before, away=set(good.files))
    assert job.run(without_model, a_task()) == ("", without_model)


def test_repeat_of_a_task_that_died_before_its_verdict_finds_its_table(
    job: Job, good: Shelf
) -> None:
    before = job.prepared(good, a_task())
    died = replace(before, files=dict(before.files))
    del died.files[a_task().verdict]
    after = job.prepared(died, a_task())
    assert after.files[a_task().table] == before.files[a_task().table]
    assert after.verdict(a_task()) == before.verdict(a_task())


@pytest.mark.parametrize("refused", ["", "the scores are not finite"])
def test_same_task_twice_at_a_time_the_first_verdict_stands(
    job: Job, good: Shelf, refused: str
) -> None:
    first = b'{"refused": "%b"}' % refused.encode()
    racing = replace(good, files=dict(good.files), rival={a_task().verdict: first})
    found, after = job.run(racing, a_task())
    assert found == refused
    assert after.files[a_task().verdict][1] == first


def test_same_task_twice_at_a_time_the_first_table_is_the_verdicts(job: Job, good: Shelf) -> None:
    table = job.prepared(good, a_task()).files[a_task().table][1]
    racing = replace(good, files=dict(good.files), rival={a_task().table: table})
    after = job.prepared(racing, a_task())
    assert after.verdict(a_task())["files"] == [after.described(a_task().table).model_dump()]


def test_tasks_give_the_same_bytes_each_time(job: Job, good: Shelf) -> None:
    one, other = (job.prepared(good, a_task(1, 2)) for _ in range(2))
    assert one.prepared() == other.prepared()


@pytest.mark.parametrize(
    ("kind", "code", "says"),
    [
        ("without_saved_model", "model_contract", "not a SavedModel"),
        ("wrong_dtype", "model_contract", "product_ids are int64"),
        ("nan_scores", "model_warm_up", "not a finite number"),
    ],
)
def test_model_that_cannot_be_served_is_refused_with_the_reason(
    job: Job, kind: str, code: str, says: str
) -> None:
    refused, shelf = job.run(job.stored(models.BROKEN[kind]), a_task())
    assert says in str(refused)
    verdict = shelf.verdict(a_task())
    assert (verdict["refused"], verdict["code"]) == (refused, code)
    assert (verdict["files"], verdict["customers"], verdict["top_k"]) == ([], 0, 0)
    assert list(shelf.prepared()) == [a_task().verdict]
    assert job.run(shelf, a_task()) == (refused, shelf)


def test_known_customer_without_a_sane_answer_is_a_reason_to_refuse(job: Job) -> None:
    # The warm-up asks for one in three of so many customers, and not for the second.
    customers = ["C001", "C-NAN", *(f"C{number}" for number in range(200))]
    refused, shelf = job.run(job.stored(models.write_nan_for_one_customer, customers), a_task())
    assert "while preparing the known customers" in str(refused)
    assert shelf.verdict(a_task())["code"] == "model_warm_up"
    assert "C-NAN" not in str(refused)


def test_artifact_that_is_not_the_deployed_one_is_refused(job: Job, good: Shelf) -> None:
    other = Artifact("bucket", "models/movies/v3/", "sha256:" + "0" * 64)
    found = job._processes.submit(run_task, replace(settings(good), artifact=other), a_task(), good)
    refused, shelf = found.result(LIMIT_S)
    assert "manifest.json: digest is" in str(refused)
    assert shelf.verdict(a_task())["code"] == "artifact_mismatch"


def test_only_the_first_customers_are_prepared_where_that_is_asked(
    job: Job, good: Shelf, tmp_path: Path
) -> None:
    tasks = [a_task(number, 2, most_customers=5) for number in range(2)]
    shelf = job.prepared(good, *tasks)
    found = tables(shelf, tmp_path)
    assert [answer is not None for answer in found.find(models.CUSTOMERS, 1)] == [True] * 5 + [
        False
    ] * 15
    assert sum(shelf.verdict(task)["customers"] for task in tasks) == found.customers == 5


@pytest.mark.parametrize(
    ("write", "changes"),
    [
        pytest.param(models.write_good, {"top_k": 0}, id="top_k 0"),
        pytest.param(models.write_good, {"most_customers": 0}, id="no customers asked for"),
        pytest.param(models.write_without_extras, {}, id="no customers.txt"),
    ],
)
def test_nothing_to_prepare_only_checks_the_model(
    job: Job, write: Callable[[Path], None], changes: dict[str, int]
) -> None:
    task = a_task(**changes)
    shelf = job.prepared(job.stored(write), task)
    verdict = shelf.verdict(task)
    assert (verdict["refused"], verdict["products"]) == ("", len(models.PRODUCTS))
    assert verdict["customers"] == 0
    if changes.get("most_customers") is None:
        assert (verdict["files"], verdict["top_k"]) == ([], 0)


def test_fewer_products_than_asked_for_are_all_prepared(
    job: Job, good: Shelf, tmp_path: Path
) -> None:
    shelf = job.prepared(good, a_task(top_k=100))
    assert shelf.verdict(a_task())["top_k"] == len(models.PRODUCTS)
    answer = orjson.loads((find(tables(shelf, tmp_path), "C001", 50) or b"") + b"}")
    assert {item["product_id"] for item in answer["recommendations"]} == set(models.PRODUCTS)


def test_customers_that_a_table_cannot_hold_are_left_to_the_model(job: Job, tmp_path: Path) -> None:
    listed = ["C001", "a stranger to the model", "C" * (LONGEST_ID_BYTES + 1), "C002", "C001"]
    shelf = job.prepared(job.stored(models.write_good, listed), a_task())
    found = tables(shelf, tmp_path)
    assert [answer is not None for answer in found.find(listed, 1)] == [
        True,
        False,
        False,
        True,
        True,
    ]
    assert shelf.verdict(a_task())["customers"] == found.customers == 2


def write_with_names_of_our_own(folder: Path) -> None:
    models.write_good(folder)
    for name in ("answers", "engine", "files", "index"):
        (folder / name).mkdir()
        (folder / name / "more.txt").write_text("the training's own")


def test_artifact_may_have_any_names_in_it(job: Job) -> None:
    assert job.prepared(job.stored(write_with_names_of_our_own), a_task()).verdict(a_task())


@pytest.mark.parametrize(
    "away", ["manifest.json", "customers.txt", a_task().table, a_task().verdict]
)
def test_storage_away_leaves_no_verdict(job: Job, good: Shelf, away: str) -> None:
    error, shelf = job.run(replace(good, away={away}), a_task())
    assert isinstance(error, ArtifactUnavailable)
    assert a_task().verdict not in shelf.files
    again = job.prepared(replace(shelf, away=set()), a_task())
    assert again.verdict(a_task())["customers"] == len(models.CUSTOMERS)


def test_approximate_index_is_written_by_the_first_task_with_its_recall(
    job: Job, good: Shelf
) -> None:
    tasks = [a_task(number, 2) for number in range(2)]
    shelf = job.prepared(good, *tasks, retrieval="approximate")
    recalls = [shelf.verdict(task)["recall"] for task in tasks]
    assert recalls[0] >= 0.95
    assert recalls[1] is None
    files = [[file["path"] for file in shelf.verdict(task)["files"]] for task in tasks]
    assert files == [[tasks[0].table, "prepared/index.faiss"], [tasks[1].table]]


def test_approximate_retrieval_without_candidates_is_refused(job: Job) -> None:
    shelf = job.stored(models.write_without_extras)
    refused, _ = job.run(shelf, a_task(), retrieval="approximate")
    assert "candidates()" in str(refused)


def with_manifest(shelf: Shelf, task: Task, **changes: Any) -> tuple[Shelf, str]:
    """Return the shelf with its task's manifest, as the pipeline writes it, and the digest."""
    verdict = shelf.verdict(task)
    manifest = {
        "schema_version": 1,
        "model_digest": verdict["digest"],
        **{name: verdict[name] for name in ("top_k", "customers", "products", "tasks", "recall")},
        "files": verdict["files"],
        "digest": digest_of(ManifestFile(**file) for file in verdict["files"]),
        **changes,
    }
    after = replace(shelf, files=dict(shelf.files))
    after.put(MANIFEST, orjson.dumps(manifest))
    return after, manifest["digest"]


@pytest.mark.parametrize("top_k", [20, 0])
def test_what_was_prepared_is_fetched(job: Job, good: Shelf, tmp_path: Path, top_k: int) -> None:
    task = a_task(top_k=top_k)
    shelf, digest = with_manifest(job.prepared(good, task), task)
    prepared = fetch_prepared(settings(shelf, prepared_digest=digest), shelf, tmp_path)
    assert prepared == Prepared((task.table,) if top_k else (), None, len(models.PRODUCTS))
    assert all((tmp_path / path).is_file() for path in prepared.tables)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"model_digest": "sha256:" + "1" * 64}, "model_digest is"),
        ({"files": []}, "digest of its files is"),
        ({"more": 1}, "more: Extra"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_manifest_of_something_else_is_refused(
    job: Job, good: Shelf, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    shelf, digest = with_manifest(job.prepared(good, a_task()), a_task(), **changes)
    with pytest.raises(ArtifactMismatch, match=rf"prepared/manifest\.json: .*{says}"):
        fetch_prepared(settings(shelf, prepared_digest=digest), shelf, tmp_path)


def test_approximate_retrieval_without_its_index_is_refused(
    job: Job, good: Shelf, tmp_path: Path
) -> None:
    shelf, digest = with_manifest(job.prepared(good, a_task()), a_task())
    with pytest.raises(ArtifactMismatch, match=r"no prepared/index\.faiss"):
        fetch_prepared(
            settings(shelf, prepared_digest=digest, retrieval="approximate"), shelf, tmp_path
        )


@pytest.mark.parametrize(
    ("env", "task"),
    [
        ({}, Task(0, 1, 20, None, 0.95)),
        ({"PREPARED_CUSTOMERS": "", "MINIMUM_RECALL": ""}, Task(0, 1, 20, None, 0.95)),
        (
            {
                "CLOUD_RUN_TASK_INDEX": "3",
                "CLOUD_RUN_TASK_COUNT": "4",
                "PREPARED_TOP_K": "0",
                "PREPARED_CUSTOMERS": "7",
                "MINIMUM_RECALL": "0.8",
            },
            Task(3, 4, 0, 7, 0.8),
        ),
    ],
    ids=["least", "empty", "all"],
)
def test_task_is_read_from_the_environment(env: dict[str, str], task: Task) -> None:
    assert read_task({**ENV, **env}) == task


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PREPARED_TOP_K", ""),
        ("PREPARED_TOP_K", "101"),
        ("PREPARED_TOP_K", "-1"),
        ("PREPARED_CUSTOMERS", "all"),
        ("MINIMUM_RECALL", "high"),
        ("MINIMUM_RECALL", "nan"),
        ("MINIMUM_RECALL", "1.5"),
        ("CLOUD_RUN_TASK_INDEX", "1"),
        ("CLOUD_RUN_TASK_COUNT", "0"),
    ],
)
def test_variable_that_cannot_be_right_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidConfiguration, match=f"{name}|CLOUD_RUN_TASK_INDEX"):
        read_task({**ENV, name: value})
