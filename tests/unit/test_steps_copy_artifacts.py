"""Artifacts are copied once, pinned by generation, and refused where they cannot be right."""

from __future__ import annotations

import json
from typing import Any

import pytest

from functions.copy_artifacts import MANIFEST, digest_of
from shared.domain.deployment import StepName, StepState
from shared.errors import ArtifactsRefused, Conflict
from tests.fakes import World
from tests.unit.stepping import new_world, publish, step, train

NAME, PREFIX = "movies-1-auto", "models/movies/v1/"


@pytest.fixture
def world() -> World:
    made = new_world()
    publish(made)
    step(made, "claim", NAME)
    return made


def manifest(world: World) -> dict[str, Any]:
    content = world.objects.read("serving", PREFIX + MANIFEST)
    assert content
    found: dict[str, Any] = json.loads(content)
    return found


def test_every_file_is_copied_and_pinned_in_the_manifest(world: World) -> None:
    world.objects.put("training", "run-1/folder/", b"")
    world.objects.put("training", "run-10/other", b"another run's")
    answer = step(world, "copy", NAME)

    written = manifest(world)
    stored = {found.name: found for found in world.objects.list("serving", PREFIX)}
    assert [entry["path"] for entry in written["files"]] == [
        "customers.txt",
        "saved_model/saved_model.pb",
        "saved_model/variables/data",
    ]
    for entry in written["files"]:
        found = stored[PREFIX + entry["path"]]
        assert entry["generation"] == found.generation
        assert entry["crc32c"] == found.crc32c
    assert written["digest"] == answer["digest"] == digest_of(written["files"])
    assert (written["version"], written["training_run"]) == (1, 1)
    made = world.state.deployment(NAME)
    assert made.serving_model_path == f"gs://serving/{PREFIX}"
    assert made.artifact_digest == written["digest"]
    assert made.steps[StepName.COPY_ARTIFACTS.value].state is StepState.DONE


def test_repeat_finds_every_copy_and_the_same_manifest(world: World) -> None:
    first = step(world, "copy", NAME)
    written = manifest(world)
    assert step(world, "copy", NAME) == first
    assert manifest(world) == written


def test_copy_that_died_half_way_is_completed(world: World) -> None:
    [source] = world.objects.list("training", "run-1/customers.txt")
    world.objects.copy("training", source, "serving", PREFIX + "customers.txt")
    assert step(world, "copy", NAME)["files"] == 3


def test_digest_is_of_paths_sizes_checksums_and_generations_alone() -> None:
    files = [
        {"path": "b", "size": 2, "crc32c": "y", "generation": 9},
        {"path": "a", "size": 1, "crc32c": "x", "generation": 8},
    ]
    assert digest_of(files) == digest_of(files[::-1])
    assert digest_of(files) == (
        # printf 'a\t1\tx\t8\nb\t2\ty\t9\n' | sha256sum
        "sha256:0e7161c817bcffba86b6c7c9985040670b3e58924011fcf438dee22cc2ac466e"
    )


def test_tree_without_a_saved_model_is_refused_and_the_step_says_so() -> None:
    world = new_world()
    publish(world, 2)
    name = "movies-2-auto"
    step(world, "claim", name)
    for found in world.objects.list("training", "run-2/saved_model/"):
        world.objects.remove("training", found.name)
    with pytest.raises(ArtifactsRefused, match="export the model as a SavedModel"):
        step(world, "copy", name)
    record = world.state.deployment(name).steps[StepName.COPY_ARTIFACTS.value]
    assert record.state is StepState.FAILED
    assert "1 files found" in record.error
    assert world.objects.list("serving", "") == []


@pytest.mark.parametrize("name", ["manifest.json", "prepared/task-00000-of-00001.json"])
def test_file_that_only_the_pipeline_may_write_is_refused(world: World, name: str) -> None:
    world.objects.put("training", f"run-1/{name}", b"{}")
    with pytest.raises(ArtifactsRefused, match="pipeline's own"):
        step(world, "copy", NAME)


def test_artifacts_that_changed_between_two_tries_are_refused(world: World) -> None:
    step(world, "copy", NAME)
    world.objects.put("training", "run-1/evaluation/holdout.jsonl", b"late")
    with pytest.raises(ArtifactsRefused, match="changed between two tries"):
        step(world, "copy", NAME)


def test_fault_of_a_late_repeat_leaves_the_step_done(world: World) -> None:
    step(world, "copy", NAME)
    train(world, 1)
    world.objects.put("training", "run-1/customers.txt", b"changed")
    with pytest.raises(ArtifactsRefused):
        step(world, "copy", NAME)
    record = world.state.deployment(NAME).steps[StepName.COPY_ARTIFACTS.value]
    assert record.state is StepState.DONE
    assert record.error == ""


def test_bucket_that_vanished_is_refused_by_name(world: World) -> None:
    world.objects.drop("training")
    with pytest.raises(ArtifactsRefused, match="no bucket 'training'"):
        step(world, "copy", NAME)


def test_another_execution_copies_nothing(world: World) -> None:
    with pytest.raises(Conflict, match="belongs to execution"):
        step(world, "copy", NAME, execution="executions/other")
    assert world.objects.list("serving", "") == []
