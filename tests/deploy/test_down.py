"""`make destroy`: what stands in its way, and what it does then."""

from __future__ import annotations

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
        "terraform destroy",
    ]
    assert running.project["applied"] == {}
    assert "gcloud storage rm --recursive gs://shop-test-terraform-state" in result.output


def test_protection_is_taken_off_without_another_image(running: Cloud) -> None:
    deployed = [v for v in running.project["applied"]["all"] if "serving_image" in v]
    deploy(*DOWN, "--confirm", "shop-test")
    (planned,) = (
        call
        for call in running.calls()
        if "plan" in call and "-var=deletion_protection=false" in call
    )
    assert deployed[0] in planned


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
    running.change(buckets={}, applied={}, images=[], services=[])
    result = deploy(*DOWN, "--confirm", "shop-test")
    assert (result.exit_code, running.changes()) == (0, [])
    assert "There is no Turnout in shop-test" in result.output


def test_second_run_has_nothing_to_delete(running: Cloud) -> None:
    deploy(*DOWN, "--confirm", "shop-test")
    running.calls()
    result = deploy(*DOWN, "--confirm", "shop-test")
    assert (result.exit_code, running.changes()) == (0, [])
