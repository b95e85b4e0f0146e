"""`make deploy`: what it calls in which order, again, and where something fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import up as deploying
from deploy.target import NoSuchTarget
from deploy.terraform import BUILD_NEEDS
from tests.deploy.conftest import UP, Cloud, deploy

CHANGES = [
    "gcloud services enable",
    "gcloud beta services identity create",
    "gcloud projects add-iam-policy-binding",
    "gcloud storage buckets create",
    "gcloud storage buckets update",
    "terraform apply",
    "gcloud builds submit",
    "terraform apply",
]
#: As Terraform prints an error.
UNKNOWN_METRIC = """
╷
│ Error: Error creating Slo: googleapi: Error 404: The metric referenced by the provided filter is \
unknown. Check the metric name and labels.
│
│   with google_monitoring_slo.rollouts,
╵
"""
NEW_METRIC = (
    "Error 404: Cannot find metric(s) that match type = x. If a metric was created recently"
)
HALF_MADE = """
│ Error: cannot destroy service without setting deletion_protection=false and running
│ `terraform apply`
│
│   with google_cloud_run_v2_service.model["{model}"],
"""
PEOPLE = """
alert_emails     = ["ml@example.com"]
operators        = ["group:ml@example.com"]
dashboard_access = ["group:ml@example.com"]
dashboard_admins = ["ml@example.com"]
"""


def test_fresh_project_gets_everything_in_order(running: Cloud, up_to_date: dict[str, Any]) -> None:
    assert running.changes() == CHANGES
    project = running.project
    assert project["buckets"] == {"gs://shop-test-terraform-state": {"versioning_enabled": True}}
    image = f"europe-west1-docker.pkg.dev/shop-test/turnout/serving@sha256:{1:064x}"
    assert f"-var=serving_image={image}" in project["applied"]["all"]
    [binding] = project["policy"]
    assert binding["role"] == "roles/pubsub.serviceAgent"
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
        ("gcloud beta services identity create", "1. enable APIs", 1),
        ("gcloud projects add-iam-policy-binding", "1. enable APIs", 1),
        ("gcloud storage buckets create", "2. make the bucket", 3),
        ("gcloud storage buckets update", "2. make the bucket", 4),
        ("terraform init", "3. begin with Terraform", 5),
        ("terraform plan", "4. make what building", 5),
        ("terraform apply", "4. make what building", 5),
        ("gcloud builds submit", "5. build the serving image", 6),
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


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> int:
    """Wait for nothing; how often an apply is tried."""
    monkeypatch.setattr(deploying, "WAITS_S", (0,) * len(deploying.WAITS_S))
    return len(deploying.WAITS_S) + 1


@pytest.fixture
def half_way(running: Cloud) -> Cloud:
    """A project where only Terraform's last apply is still to be done."""
    running.change(applied={"needs": running.project["applied"]["needs"]})
    running.calls()
    return running


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("said", [UNKNOWN_METRIC, NEW_METRIC])
def test_what_google_does_not_know_yet_is_waited_for(half_way: Cloud, said: str) -> None:
    half_way.change(refusals=[said, said])
    result = deploy(*UP, typed="y\n")  # asked no more often than without
    assert result.exit_code == 0, result.output
    assert half_way.changes() == ["terraform apply"] * 3
    assert result.output.count("Apply this plan?") == 1
    assert result.output.count("what is left is planned and applied") == 2


def test_what_google_never_comes_to_know_ends(half_way: Cloud, patience: int) -> None:
    half_way.change(refusals=[UNKNOWN_METRIC] * patience)
    result = deploy(*UP, "--yes")
    assert (result.exit_code, half_way.project["refusals"]) == (1, [])
    assert "failed: 6. everything else" in result.output
    assert "make deploy PROJECT=shop-test" in result.output


@pytest.mark.usefixtures("patience")
def test_error_that_does_not_pass_is_not_tried_again(half_way: Cloud) -> None:
    half_way.change(refusals=["Error 403: the caller lacks a permission", "another"])
    assert deploy(*UP, "--yes").exit_code == 1
    assert half_way.project["refusals"] == ["another"]


@pytest.mark.parametrize(
    ("said", "todo"),
    [
        (
            HALF_MADE.format(model="movies"),
            "gcloud run services delete model-serving-movies --project=shop-test "
            "--region=europe-west1",
        ),
        (
            HALF_MADE.format(model="books"),
            "gcloud run services delete model-serving-books --project=shop-test "
            "--region=europe-west3",
        ),
        (
            "Error: cannot destroy job without setting deletion_protection=false\n"
            '  with google_cloud_run_v2_job.prepare["movies"],',
            "gcloud run jobs delete prepare-movies --project=shop-test --region=europe-west1",
        ),
        (
            "Error 400: You can't create a role_id (turnout_state) which has been marked for "
            "deletion., failedPrecondition",
            'role_prefix = "turnout2"',
        ),
        ("Max instances must be set to 0 or fewer to set the requested total CPU", "limits.md"),
        ("for the specified value, maxScale may not exceed 10", "function_instances"),
        ("Service account service-1@gcp-sa-iap.iam.gserviceaccount.com does not exist", "identity"),
        ("Error creating Budget: googleapi: Error 403: no", "roles/billing.costsManager"),
    ],
)
def test_error_of_a_first_apply_is_told_with_what_to_do(
    half_way: Cloud, environment: Callable[[str], None], said: str, todo: str
) -> None:
    environment('models = {\n  movies = {}\n  books = { region = "europe-west3" }\n}\n')
    half_way.change(refusals=[said])
    result = deploy(*UP, "--environment", "test", "--yes")
    assert result.exit_code == 1
    assert todo in result.output.rpartition("failed:")[2]


def test_image_that_may_be_refused_is_built_and_scanned_again(running: Cloud) -> None:
    running.calls()
    result = deploy(*UP, "--yes", "--refuse", "CRITICAL")
    assert result.exit_code == 0, result.output
    [built] = [call for call in running.calls() if "submit" in call]
    assert any("_REFUSE=CRITICAL" in word for word in built)
    first, second = (image["tags"][0] for image in running.project["images"])
    assert second.startswith(f"{first}-")


def test_who_is_told_nothing_and_may_do_nothing_is_said_first(
    cloud: Cloud, environment: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = ("alert_emails", "operators", "dashboard_access", "dashboard_admins")
    alone = deploy(*UP, "--plan").output
    assert [name for name in lists if f"{name} is empty" not in alone] == []
    monkeypatch.setenv("TF_VAR_operators", '["group:ops@example.com"]')
    assert "operators is empty" not in deploy(*UP, "--plan").output
    environment(PEOPLE)
    assert "is empty" not in deploy(*UP, "--environment", "test", "--plan").output
    environment(PEOPLE.replace('["ml@example.com"]', "[]", 1))
    empty = deploy(*UP, "--environment", "test", "--plan").output
    assert [name for name in lists if f"{name} is empty" in empty] == ["alert_emails"]
    assert cloud.changes() == []


@pytest.mark.usefixtures("cloud")
def test_costs_are_those_of_the_environments_models(environment: Callable[[str], None]) -> None:
    environment('models = { tiny = { cpu = "1", memory = "512Mi", min_instances = 3 } }\n')
    output = deploy(*UP, "--environment", "test", "--plan").output
    # 730 hours of 1 vCPU and half a GiB, three times.
    assert "$150 to $180 a month, by region: the warm instances of tiny" in output
    assert "movies" not in output


def test_accounts_that_a_domain_needs_are_made_before_terraform_names_them(
    cloud: Cloud, environment: Callable[[str], None]
) -> None:
    environment('dashboard_domain = "turnout.example.com"\n')
    result = deploy(*UP, "--environment", "test", "--yes")
    assert result.exit_code == 0, result.output
    assert "iap.googleapis.com" in cloud.project["apis"]
    assert cloud.changes()[-2:] == ["gcloud beta services identity create", "terraform apply"]


def test_billing_account_that_is_not_seen_is_missing(
    cloud: Cloud, environment: Callable[[str], None]
) -> None:
    environment('billing_account = "012345-6789AB-CDEF01"\n')
    assert deploy(*UP, "--environment", "test", "--plan").exit_code == 0
    cloud.change(billing_accounts=[])
    result = deploy(*UP, "--environment", "test", "--yes")
    assert (result.exit_code, cloud.changes()) == (1, [])
    assert "roles/billing.costsManager" in result.output


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


def test_environment_that_cannot_be_read_is_refused(
    cloud: Cloud, environment: Callable[[str], None]
) -> None:
    environment("alert_emails = = 3\n")
    result = deploy(*UP, "--environment", "test", "--yes")
    assert isinstance(result.exception, NoSuchTarget)
    assert "test.tfvars cannot be read" in str(result.exception)
    assert cloud.calls() == []


def test_unknown_environment_is_refused(cloud: Cloud) -> None:
    result = deploy(*UP, "--environment", "live", "--yes")
    assert isinstance(result.exception, NoSuchTarget)
    assert cloud.calls() == []
