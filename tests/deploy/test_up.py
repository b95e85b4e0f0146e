"""`make deploy`: what it calls in which order, again, and where something fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.target import NoSuchTarget
from deploy.terraform import BUILD_NEEDS
from tests.deploy.conftest import UP, Cloud, deploy

CHANGES = [
    "gcloud services enable",
    "gcloud storage buckets create",
    "gcloud storage buckets update",
    "terraform apply",
    "gcloud builds submit",
    "terraform apply",
]


def test_fresh_project_gets_everything_in_order(running: Cloud, up_to_date: dict[str, Any]) -> None:
    assert running.changes() == CHANGES
    project = running.project
    assert project["buckets"] == {"gs://shop-test-terraform-state": {"versioning_enabled": True}}
    image = f"europe-west1-docker.pkg.dev/shop-test/turnout/serving@sha256:{1:064x}"
    assert f"-var=serving_image={image}" in project["applied"]["all"]
    assert "turnout --project shop-test --region europe-west1 models" in up_to_date["output"]


def test_bundle_is_named_from_terraforms_folder(running: Cloud, tree: Path) -> None:
    (bundle,) = (a for a in running.project["applied"]["all"] if a.startswith("-var=bundle="))
    assert (tree / "terraform" / bundle.removeprefix("-var=bundle=")).resolve().is_file()


def test_image_waits_for_exactly_what_its_build_needs(running: Cloud) -> None:
    targets = [a for a in running.project["applied"]["needs"] if a.startswith("-target")]
    assert targets == sorted(f"-target={address}" for address in BUILD_NEEDS)


def test_second_run_changes_nothing_and_asks_nothing(running: Cloud) -> None:
    running.calls()
    result = deploy(*UP)
    assert (result.exit_code, running.changes()) == (0, []), result.output


def test_changed_source_of_the_image_builds_another_one_only(running: Cloud, tree: Path) -> None:
    running.calls()
    path = tree / "serving" / "cpus.py"
    before = path.read_text()
    path.write_text(before + "\n# another\n")
    try:
        result = deploy(*UP, "--yes")
    finally:
        path.write_text(before)
    assert result.exit_code == 0, result.output
    assert running.changes() == ["gcloud builds submit", "terraform apply"]
    first, second = (image["tags"] for image in running.project["images"])
    assert first != second


def test_rebuild_takes_a_new_tag_and_the_newer_image(running: Cloud) -> None:
    result = deploy(*UP, "--yes", "--rebuild")
    assert result.exit_code == 0, result.output
    first, second = (image["tags"][0] for image in running.project["images"])
    assert second.startswith(f"{first}-")
    assert any(f"sha256:{2:064x}" in variable for variable in running.project["applied"]["all"])


def test_plan_of_a_fresh_project_changes_nothing(cloud: Cloud) -> None:
    result = deploy(*UP, "--plan")
    assert (result.exit_code, cloud.changes()) == (0, []), result.output
    assert "Nothing was changed" in result.output


def test_plan_of_a_running_project_is_terraforms(running: Cloud) -> None:
    running.calls()
    running.change(applied={"needs": ["x"], "all": ["x"]})
    result = deploy(*UP, "--plan")
    calls = running.calls()
    assert result.exit_code == 0, result.output
    assert [c[2] for c in calls if c[0] == "terraform" and c[1].startswith("-chdir")] == [
        "init",
        "plan",
    ]
    assert running.project["applied"] == {"needs": ["x"], "all": ["x"]}


@pytest.mark.parametrize("typed", ["n\n", ""], ids=["no", "nobody there"])
def test_without_a_yes_nothing_changes(cloud: Cloud, typed: str) -> None:
    result = deploy(*UP, typed=typed)
    assert (result.exit_code, cloud.changes()) == (1, [])
    assert "some ten minutes" in result.output
    assert "a month" in result.output


def test_no_to_terraforms_plan_keeps_what_runs(cloud: Cloud) -> None:
    result = deploy(*UP, typed="y\nn\n")
    assert result.exit_code == 1
    assert "all" not in cloud.project["applied"]


@pytest.mark.parametrize(
    ("fails", "step", "done"),
    [
        ("gcloud services list", "Looking at the project", 0),
        ("gcloud services enable", "1. enable APIs", 0),
        ("gcloud storage buckets create", "2. make the bucket", 1),
        ("gcloud storage buckets update", "2. make the bucket", 2),
        ("terraform init", "3. begin with Terraform", 3),
        ("terraform plan", "4. make what building", 3),
        ("terraform apply", "4. make what building", 3),
        ("gcloud builds submit", "5. build the serving image", 4),
    ],
)
def test_failed_step_says_so_and_the_next_run_goes_on_from_there(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, fails: str, step: str, done: int
) -> None:
    monkeypatch.setenv("FAKE_FAILS", fails)
    failed = deploy(*UP, "--yes")
    assert failed.exit_code == 1
    assert f"failed: {step}" in failed.output
    assert "make deploy PROJECT=shop-test REGION=europe-west1" in failed.output
    cloud.calls()
    monkeypatch.delenv("FAKE_FAILS")
    again = deploy(*UP, "--yes")
    assert again.exit_code == 0, again.output
    assert cloud.changes() == CHANGES[done:]


@pytest.mark.parametrize(
    ("missing", "todo"),
    [
        ({"account": ""}, "gcloud auth login"),
        ({"application_credentials": False}, "gcloud auth application-default login"),
        ({"terraform": "1.5.7"}, "1.11 or newer"),
        ({"state": None}, "gcloud projects create shop-test"),
        ({"state": "DELETE_REQUESTED"}, "gcloud projects undelete shop-test"),
        ({"billing": "False"}, "gcloud billing projects link shop-test"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_missing_prerequisite_is_named_with_what_to_do(
    cloud: Cloud, missing: dict[str, object], todo: str
) -> None:
    cloud.change(**missing)
    result = deploy(*UP, "--yes")
    assert (result.exit_code, cloud.changes()) == (1, [])
    assert todo in result.output


@pytest.mark.usefixtures("cloud")
def test_all_that_is_missing_here_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    result = deploy(*UP, "--yes")
    assert result.exit_code == 1
    assert "install Terraform" in result.output
    assert "install the Google Cloud CLI" in result.output


@pytest.fixture
def environment(tree: Path) -> Iterator[Callable[[str], None]]:
    """Write terraform/environments/test.tfvars."""
    own = tree / "terraform/environments/test.tfvars"

    def write(text: str) -> None:
        own.write_text(text)

    yield write
    own.unlink(missing_ok=True)


def test_environments_variables_and_region_are_taken(
    running: Cloud, environment: Callable[[str], None]
) -> None:
    environment('project = "shop-test"\nregion      = "europe-west1"\n')
    result = deploy("up", "--project", "shop-test", "--environment", "test", "--yes")
    assert result.exit_code == 0, result.output
    applied = running.project["applied"]["all"]
    assert {"-var-file=environments/test.tfvars", "-var=region=europe-west1"} <= set(applied)


def test_environment_of_another_project_is_refused(
    cloud: Cloud, environment: Callable[[str], None]
) -> None:
    environment('project     = "shop-production"\n')
    result = deploy(*UP, "--environment", "test", "--yes")
    assert isinstance(result.exception, NoSuchTarget)
    assert "is for the project shop-production, not for shop-test" in str(result.exception)
    assert cloud.calls() == []


def test_unknown_environment_is_refused(cloud: Cloud) -> None:
    result = deploy(*UP, "--environment", "live", "--yes")
    assert isinstance(result.exception, NoSuchTarget)
    assert cloud.calls() == []
