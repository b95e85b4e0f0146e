"""What `deploy` takes for granted of terraform/ is what stands there."""

from __future__ import annotations

import re

import pytest

from deploy.advice import DELETED
from deploy.locks import PYTHON
from deploy.prerequisites import TERRAFORM
from deploy.target import Target
from deploy.terraform import BUILD_NEEDS
from deploy.up import NOBODY
from tests.deploy.conftest import ROOT, Cloud
from tests.terraform.checking import HOW_TO_INSTALL, installed, working_copy

TEXT = "\n".join(path.read_text() for path in sorted((ROOT / "terraform").glob("*.tf")))
DEPLOY = "\n".join(path.read_text() for path in sorted((ROOT / "deploy").glob("*.py")))
TARGET = Target("shop-test", "europe-west1")


def test_what_the_build_needs_is_declared() -> None:
    for address in BUILD_NEEDS:
        kind, name = address.partition("[")[0].split(".")
        assert f'resource "{kind}" "{name}"' in TEXT, address
    assert re.search(r"^ +build += \"", TEXT, re.M)


@pytest.mark.skipif(not installed(), reason=HOW_TO_INSTALL)
def test_image_can_be_built_before_the_rest_is_there() -> None:
    with working_copy() as copy:
        tests = copy.folder / "tests"
        given = (tests / "installation.tftest.hcl").read_text().partition("\nrun ")[0]
        targets = ", ".join(BUILD_NEEDS)
        options = f"plan_options {{\n target = [{targets}]\n }}"
        run = f'{given}\nrun "needs" {{\n command = plan\n {options}\n}}\n'
        (tests / "needs.tftest.hcl").write_text(run)
        outcome = copy.test("-filter=tests/needs.tftest.hcl")
    assert outcome.passed, outcome.output
    assert outcome.plans["needs"].kinds == {
        "google_artifact_registry_repository",
        "google_artifact_registry_repository_iam_member",
        "google_project_iam_member",
        "google_project_service",
        "google_service_account",
        "google_storage_bucket",
        "google_storage_bucket_iam_member",
    }


def test_every_variable_that_is_given_is_declared(running: Cloud) -> None:
    given = {a.split("=")[1] for a in running.project["applied"]["all"] if a.startswith("-var=")}
    declared = set(re.findall(r'^variable "(\w+)"', TEXT, re.M))
    assert given == {"project", "region", "bundle", "serving_image"}
    assert given | {"deletion_protection", "dashboard_secret"} <= declared


def test_every_variable_that_is_looked_at_or_spoken_of_is_declared() -> None:
    looked_at = set(re.findall(r'variables\.get\(\s*"(\w+)"', DEPLOY))
    assert {"billing_account", "dashboard_domain", "models"} <= looked_at
    for name in {*looked_at, *NOBODY, "role_prefix", "function_instances"}:
        assert re.search(rf'^variable "{name}"', TEXT, re.M), name


def test_names_are_terraforms() -> None:
    def terraforms(expression: str) -> str:
        assert f'"{expression}"' in TEXT, expression
        return expression.replace("${var.project}", "shop-test")

    assert TARGET.source_bucket == terraforms("${var.project}-turnout-source")
    repository = re.search(r'"images" {[^}]*?repository_id += "([\w-]+)"', TEXT)
    assert repository is not None
    assert TARGET.image == f"europe-west1-docker.pkg.dev/shop-test/{repository[1]}/serving"
    for command in DELETED.values():  # what failed while it was made is deleted by it
        terraforms(command.split()[-1].replace("{key}", "${each.key}"))


def test_version_of_terraform_is_the_one_that_is_checked() -> None:
    (wanted,) = re.findall(r'required_version = ">= ([\d.]+)"', TEXT)
    assert tuple(map(int, wanted.split("."))) == TERRAFORM


def test_lists_of_packages_are_for_the_functions_runtime() -> None:
    assert re.findall(r'runtime +=+ "python(\d+)"', TEXT) == [PYTHON.replace(".", "")]


def test_state_is_where_deploy_looks_for_it() -> None:
    assert 'backend "gcs" {}' in TEXT
