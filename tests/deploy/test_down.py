"""`make destroy`: what stands in its way, and what it does then."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.conftest import DOWN, Cloud, deploy


@pytest.fixture(autouse=True)
def nothing_called_yet(running: Cloud) -> None:
    running.calls()


@pytest.mark.parametrize("typed", ["shop\n", "yes\n", "\n", ""])
def test_without_the_projects_name_nothing_is_deleted(running: Cloud, typed: str) -> None:
    result = deploy(*DOWN, typed=typed)
    assert (result.exit_code, running.changes()) == (1, [])
    assert "nothing brings it back" in result.output


def test_wrong_name_in_the_option_deletes_nothing(running: Cloud) -> None:
    result = deploy(*DOWN, "--confirm", "shop")
    assert (result.exit_code, running.changes()) == (1, [])


def test_protection_goes_first_then_services_then_the_rest(running: Cloud) -> None:
    result = deploy(*DOWN, typed="shop-test\n")
    assert result.exit_code == 0, result.output
    assert running.changes() == [
        "terraform apply",
        "gcloud run services delete",
        "gcloud run services delete",
        "terraform destroy",
    ]
    assert running.project["applied"] == {}
    assert running.project["services"] == {}


def plan_without_protection(cloud: Cloud) -> list[str]:
    """Return the one plan that was made to take the protection off."""
    (planned,) = (
        call
        for call in cloud.calls()
        if "plan" in call and "-var=deletion_protection=false" in call
    )
    return planned


def test_protection_is_taken_off_without_another_image_or_bundle(
    running: Cloud, tree: Path
) -> None:
    deployed = running.project["applied"]["all"]
    source = tree / "functions" / "planning.py"
    before = source.read_text()
    source.write_text(before + "\n# another checkout\n")
    try:
        deploy(*DOWN, "--confirm", "shop-test")
    finally:
        source.write_text(before)
    planned = plan_without_protection(running)
    kept = [a for a in deployed if a.startswith(("-var=serving_image", "-var=bundle"))]
    assert len(kept) == 2
    assert set(kept) <= set(planned)


def test_protection_is_taken_off_what_has_it_and_nothing_else(running: Cloud) -> None:
    deploy(*DOWN, "--confirm", "shop-test")
    planned = plan_without_protection(running)
    assert [a.partition("=")[2] for a in planned if a.startswith("-target")] == [
        "google_firestore_database.state",
        'google_cloud_run_v2_job.prepare["movies"]',
        "google_storage_bucket.serving",
    ]


def test_what_is_half_destroyed_is_not_made_again(
    running: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAILS", "terraform destroy")
    assert deploy(*DOWN, "--confirm", "shop-test").exit_code == 1
    monkeypatch.delenv("FAKE_FAILS")
    running.calls()
    assert deploy(*DOWN, "--confirm", "shop-test").exit_code == 0
    assert running.changes() == ["terraform destroy"]


def test_bundle_that_is_gone_keeps_nothing_alive(running: Cloud) -> None:
    running.change(objects=False)
    assert deploy(*DOWN, "--confirm", "shop-test").exit_code == 0
    assert running.project["applied"] == {}


def test_what_google_keeps_is_named_with_what_deletes_it(running: Cloud) -> None:
    versioned = {"versioning_enabled": True}
    buckets = ("shop-test-terraform-state", "gcf-v2-sources-12-europe-west1", "somebody-elses")
    running.change(
        buckets={f"gs://{name}": versioned for name in buckets},
        backups=["projects/shop-test/locations/eur3/backups/8a4f"],
    )
    for _ in range(2):  # the second time there is nothing else
        said = deploy(*DOWN, "--confirm", "shop-test").output
        assert "gcloud storage rm --recursive gs://shop-test-terraform-state\n" in said
        assert "gcloud storage rm --recursive gs://gcf-v2-sources-12-europe-west1\n" in said
        assert "firestore backups delete --location=eur3 --backup=8a4f --project=shop-test" in said
        assert "somebody-elses" not in said


def test_names_of_roles_that_stay_taken_are_told_before_anything_is_deleted(
    running: Cloud,
) -> None:
    said = deploy(*DOWN, typed="no\n").output
    assert 'role_prefix = "turnout2"' in said
    assert running.changes() == []


@pytest.mark.parametrize(
    "fails", ["terraform apply", "gcloud run services delete", "terraform destroy"]
)
def test_failed_step_says_so_and_the_next_run_goes_on_from_there(
    running: Cloud, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setenv("FAKE_FAILS", fails)
    failed = deploy(*DOWN, "--confirm", "shop-test")
    assert failed.exit_code == 1
    assert "make destroy PROJECT=shop-test" in failed.output
    monkeypatch.delenv("FAKE_FAILS")
    assert deploy(*DOWN, "--confirm", "shop-test").exit_code == 0
    assert running.project["applied"] == {}


def test_project_without_turnout_has_nothing_to_delete(running: Cloud) -> None:
    running.change(buckets={}, applied={}, images=[], services={})
    result = deploy(*DOWN, "--confirm", "shop-test")
    assert (result.exit_code, running.changes()) == (0, [])
    assert "There is no Turnout in shop-test" in result.output


def test_second_run_has_nothing_to_delete(running: Cloud) -> None:
    deploy(*DOWN, "--confirm", "shop-test")
    running.calls()
    result = deploy(*DOWN, "--confirm", "shop-test")
    assert (result.exit_code, running.changes()) == (0, [])
