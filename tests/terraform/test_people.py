"""What people may do is what the command line and the runbook do, command by command."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import pytest

from tests.terraform.checking import ROOT, Outcome, Plan
from tests.terraform.reading import table
from tests.terraform.test_terraform import PROJECT, grants

OPERATOR, KEY_ADMIN = "group:ops@example.com", "user:owner@example.com"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
READ, LIST = "datastore.entities.get", "datastore.entities.list"
ACT_AS = "iam.serviceAccounts.actAs"
VIEWERS = {"roles/cloudtrace.user", "roles/logging.viewer", "roles/monitoring.viewer"}
#: A quota project in a person's own credentials asks for it, whatever is called.
ALWAYS = "serviceusage.services.use"
#: What each gcloud command of the runbook needs; nothing is what VIEWERS hold.
GCLOUD = {
    "compute addresses describe": ["compute.globalAddresses.get"],
    "compute ssl-certificates list": ["compute.sslCertificates.list"],
    "logging read": [],
    "pubsub subscriptions pull": ["pubsub.subscriptions.consume"],
    "pubsub subscriptions seek": ["pubsub.subscriptions.consume"],
    "run jobs executions list": ["run.executions.list"],
    "run revisions list": ["run.revisions.list"],
    "run services describe": ["run.services.get"],
    "run services update-traffic": ["run.services.get", "run.services.update", ACT_AS],
    "scheduler jobs describe": ["cloudscheduler.jobs.get"],
    "scheduler jobs list": ["cloudscheduler.jobs.list"],
    "scheduler jobs pause": ["cloudscheduler.jobs.pause"],
    "scheduler jobs resume": ["cloudscheduler.jobs.enable"],
    "scheduler jobs run": ["cloudscheduler.jobs.run"],
    "workflows executions cancel": ["workflows.executions.cancel"],
    "workflows executions describe": ["workflows.executions.get"],
    "workflows executions list": ["workflows.executions.list"],
}
#: What each command of `turnout` needs of Google, beside calling a function: that is `invokers`.
TURNOUT = {
    "approve": [READ, LIST],
    "cancel": [],
    "deployments": [READ, LIST],
    "models": [READ, LIST, "run.services.get"],
    "open": [],
    "pause": [READ, LIST],
    "plan": [READ, LIST],
    "predict": [READ, LIST, "run.services.get"],
    "publish": [READ, LIST, "pubsub.topics.publish"],
    "resume": [READ, LIST],
    "rollback": [READ, LIST],
    "runs": [READ, LIST],
    "skip": [READ, LIST],
    "trace": [READ, LIST],
    "watch": [READ, LIST],
}
KEYS = {READ, LIST, "datastore.entities.create", "datastore.entities.update"}
#: It writes every document, and needs what docs/disaster-recovery.md names.
ROLES_OF_ITS_OWN = {"recover"}


def commands(program: str) -> Iterator[str]:
    """Give each command of the runbook, from its second word to the first that is an option."""
    for found in re.findall(rf"(?<![\w/-]){program} ([a-z][^`\n]*)", RUNBOOK):
        yield re.split(r" -| [A-Z'\"]", found)[0].strip()


def needed(written: Iterable[str], known: dict[str, list[str]]) -> set[str]:
    """Return what these commands need; KeyError names one that nobody described here."""
    found: set[str] = set()
    for command in written:
        words = command.split()
        begins = [" ".join(words[:end]) for end in range(len(words), 0, -1)]
        name = next((one for one in begins if one in known), None)
        if name is None:
            raise KeyError(f"{command}: say in tests/terraform/test_people.py what it needs")
        found |= set(known[name])
    return found


def held(plan: Plan, member: str) -> tuple[set[str], set[str]]:
    """Return the permissions that a person holds by our own roles, and the other roles."""
    permissions: set[str] = set()
    others: set[str] = set()
    ours = f"projects/{PROJECT}/roles/turnout_"
    for _, _, role, who in grants(plan):
        if who != member:
            continue
        if role.startswith(ours):
            permissions |= set(table("custom_roles")[role.removeprefix(ours)])
        else:
            others.add(role)
    return permissions, others


def test_people_on_call_hold_what_the_runbook_asks_of_them_and_no_more(production: Plan) -> None:
    turnout = {one for one in commands("turnout") if one.split()[0] not in ROLES_OF_ITS_OWN}
    by_hand = {one for one in turnout if not one.startswith("keys ")}
    wanted = needed(commands("gcloud"), GCLOUD) | needed(by_hand, TURNOUT)
    # What the runbook does not name, and the command line has.
    wanted |= needed(TURNOUT, TURNOUT)
    permissions, others = held(production, OPERATOR)
    assert permissions == wanted | {ALWAYS}
    assert others == VIEWERS | {"roles/run.invoker"}
    assert {one.split()[0] for one in turnout} >= {"models", "publish", "rollback", "cancel"}


def test_nobody_on_call_writes_a_document(production: Plan) -> None:
    permissions, _ = held(production, OPERATOR)
    assert not {one for one in permissions if one.startswith("datastore.")} - {READ, LIST}


def test_who_makes_keys_can_do_that_alone(production: Plan) -> None:
    permissions, others = held(production, KEY_ADMIN)
    assert permissions - {"datastore.databases.get", ALWAYS} == KEYS
    assert others == set()


def test_every_command_that_acts_is_known_here() -> None:
    from turnout.cli import app

    named = {one.name or one.callback.__name__ for one in app.registered_commands if one.callback}
    # These are of the local cloud, or ask nobody.
    here = {"up", "demo", "calls", "openapi"}
    assert named - here - ROLES_OF_ITS_OWN == set(TURNOUT)


def test_traffic_is_moved_past_the_pipeline_on_the_models_services_alone(
    production: Plan, tested: Outcome
) -> None:
    for plan in (production, tested.plans["two_models"]):
        moved = {
            kind
            for kind, _, role, who in grants(plan)
            if who == OPERATOR and role.endswith(("_traffic", "_acts_as"))
        }
        assert moved == {
            "google_cloud_run_v2_service_iam_binding",
            "google_service_account_iam_binding",
        }


@pytest.mark.parametrize("command", ["run services delete x", "scheduler jobs delete y"])
def test_command_that_nobody_described_is_named(command: str) -> None:
    with pytest.raises(KeyError, match=command):
        needed([command], GCLOUD)
