"""What has to be there before anything can be done, each with what to do where it is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from deploy.programs import INSTALL, ProgramFailed, take
from deploy.target import Target

#: terraform/versions.tf says why.
TERRAFORM = (1, 11)


def missing(target: Target) -> list[str]:
    """Return what is missing, one sentence each, with what to do."""
    found: list[str] = []
    for check in (_terraform, _account, _application_credentials):
        found += _tried(check)
    if not found:
        found += _tried(lambda: _project(target))
        found += _tried(lambda: _billing_account(target))
    return found


def _tried(check: Callable[[], Iterator[str]]) -> list[str]:
    try:
        return list(check())
    except ProgramFailed as failed:
        return [str(failed)]


def _terraform() -> Iterator[str]:
    version = json.loads(take(["terraform", "version", "-json"]))["terraform_version"]
    if tuple(int(part) for part in version.split("-")[0].split(".")[:2]) < TERRAFORM:
        wanted = ".".join(map(str, TERRAFORM))
        yield f"Terraform is {version}, {wanted} or newer is needed; {INSTALL['terraform']}"


def _account() -> Iterator[str]:
    active = ["gcloud", "auth", "list", "--filter=status:ACTIVE", "--format=value(account)"]
    if not take(active):
        yield "gcloud is not logged in: gcloud auth login"


def _application_credentials() -> Iterator[str]:
    try:
        take(["gcloud", "auth", "application-default", "print-access-token"])
    except ProgramFailed:
        yield (
            "Terraform has no credentials (they are others than gcloud's own): "
            "gcloud auth application-default login"
        )


def _project(target: Target) -> Iterator[str]:
    named = ["gcloud", "projects", "describe", target.project, "--format=value(lifecycleState)"]
    try:
        state = take(named)
    except ProgramFailed as failed:
        yield (
            f"project {target.project} does not exist, or this account may not see it: "
            f"gcloud projects create {target.project}, or gcloud auth login with another "
            f"account\n{failed.said}"
        )
        return
    if state != "ACTIVE":
        yield (
            f"project {target.project} is {state}: gcloud projects undelete {target.project}, "
            "or another project"
        )
        return
    billing = ["gcloud", "billing", "projects", "describe", target.project]
    if take([*billing, "--format=value(billingEnabled)"]) != "True":
        yield (
            f"project {target.project} has no billing account: gcloud billing projects link "
            f"{target.project} --billing-account=ACCOUNT (gcloud billing accounts list)"
        )


def _billing_account(target: Target) -> Iterator[str]:
    """Look whether a budget's billing account is seen at all; only the apply shows the rest."""
    account = target.variables.get("billing_account")
    if not account:
        return
    try:
        take(["gcloud", "billing", "accounts", "describe", account, "--format=value(open)"])
    except ProgramFailed as failed:
        yield (
            f"{target.variables_file} wants a budget on the billing account {account}, which this "
            f"account may not see: gcloud billing accounts add-iam-policy-binding {account} "
            "--role=roles/billing.costsManager --member=user:YOU, or leave billing_account "
            f"out\n{failed.said}"
        )
