"""What is granted although no recorded call needs it: why, and which test takes that path.

Most are ways out: of a step that died half-way, of a person's word in the middle of something,
of two that come at once. Tests take these ways on fakes or on the faulty cloud, which is not
recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tests.permissions.needs import Need


class Reason(NamedTuple):
    """Why a part may do what it is not seen to do; `test` is FILE::NAME, or "" for none."""

    why: str
    test: str = ""


_STEPS = "tests/unit/test_steps_"
_NEXT = Reason(
    "starts the run that waited, once the traffic is back",
    _STEPS + "abort_deployment.py::test_run_that_waited_is_started_once_the_traffic_is_back",
)
_REPLACE = Reason(
    "ends the rollout under way where the policy says that a newer run replaces it",
    "tests/unit/test_superseding.py::test_newer_run_ends_the_rollout_under_way_and_takes_its_turn",
)
_COLLECT = Reason(
    "clears old versions away",
    "tests/unit/test_collect.py::test_what_is_beyond_the_policy_goes_and_each_is_recorded",
)
_BRING_BACK = Reason(
    "deploys a version again whose revision is gone, from its kept artifacts",
    _STEPS
    + "roll_back.py::test_version_whose_revision_is_gone_is_deployed_again_from_its_kept_artifacts",
)
_COMPARE = Reason(
    "tells what the gate would say of a run: its results by customer against the live version's",
    _STEPS + "on_training_completed.py::test_gain_has_to_be_significant_over_the_same_customers",
)
# Of every part that has it.
_ALL: Mapping[str, Reason] = {
    "telemetry.traces.write": Reason(
        "sends its spans to Cloud Trace, at an address of its own: "
        "https://docs.cloud.google.com/iam/docs/roles-permissions/telemetry"
    ),
}
_OUTDONE = Reason(
    "ends a run that waited and is no better than what went live meanwhile",
    _STEPS + "gate_again.py::test_late_run_ends_at_its_claim_and_leaves_the_traffic_alone",
)
_OF_PART: Mapping[tuple[str, str], Reason] = {
    ("abort_deployment", "workflows.executions.create"): _NEXT,
    ("cancel", "workflows.executions.create"): _NEXT,
    ("claim_deployment", "iam.serviceAccounts.actAs"): _OUTDONE,
    ("claim_deployment", "run.services.update"): _OUTDONE,
    ("claim_deployment", "workflows.executions.create"): _OUTDONE,
    ("dashboard", "run.executions.cancel"): Reason(
        "stops the job of the rollout that it ends",
        _STEPS + "prepare_model.py::test_rollout_that_ends_stops_its_job_and_a_repeat_does_no_harm",
    ),
    ("dashboard", "storage.objects.get"): _COMPARE,
    ("dashboard", "storage.objects.list"): _COMPARE,
    ("dashboard", "workflows.executions.create"): _BRING_BACK,
    ("on_training_completed", "iam.serviceAccounts.actAs"): _REPLACE,
    ("on_training_completed", "run.services.update"): _REPLACE,
    ("prepare_model", "run.executions.cancel"): Reason(
        "stops the job that it started, where another call or rollout came first",
        _STEPS + "prepare_model.py::test_overtaken_call_stops_the_job_that_it_started",
    ),
    ("reconcile", "run.executions.cancel"): Reason(
        "stops the job of a rollout whose workflow died",
        _STEPS + "reconcile.py::test_rollout_whose_execution_ended_is_aborted_with_the_reason",
    ),
    ("reconcile", "run.revisions.delete"): _COLLECT,
    ("reconcile", "storage.objects.delete"): _COLLECT,
    ("reconcile", "workflows.executions.create"): Reason(
        "starts a deployment that nobody claimed",
        _STEPS + "reconcile.py::test_lock_that_nobody_claimed_gets_another_execution_after_a_while",
    ),
    ("roll_back", "storage.objects.get"): _BRING_BACK,
    ("roll_back", "storage.objects.list"): _BRING_BACK,
    ("roll_back", "workflows.executions.create"): _BRING_BACK,
    ("workflow", "logging.logEntries.create"): Reason(
        "logs failed calls as the workflow (`call_log_level`); no API call here stands for it: "
        "https://docs.cloud.google.com/workflows/docs/log-workflow"
    ),
}


def reason(part: str, need: Need) -> Reason | None:
    """Return why a part has what no recorded call of it needs; None where it should not."""
    return _OF_PART.get((part, need.permission)) or _ALL.get(need.permission)


def reasons() -> Iterable[Reason]:
    """Return all reasons."""
    return {*_OF_PART.values(), *_ALL.values()}


def stale(spare: Mapping[str, Iterable[Need]]) -> list[str]:
    """Return what has a reason here and needs none any more."""
    found = {(part, need.permission) for part, needs in spare.items() for need in needs}
    unused = [f"{part}: {permission}" for part, permission in set(_OF_PART) - found]
    return unused + sorted(set(_ALL) - {permission for _, permission in found})
