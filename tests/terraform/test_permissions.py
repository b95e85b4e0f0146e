"""Who may call a function is who calls it. The other permissions: tests/permissions."""

from __future__ import annotations

from tests.permissions.record import recorded
from tests.permissions.report import INVOKE
from tests.terraform.checking import Plan


def test_parts_may_call_the_functions_that_they_call_and_no_other(production: Plan) -> None:
    accounts = production.all("google_service_account").values()
    # Not its `email`, which only Google gives.
    parts = {
        f"serviceAccount:{one['account_id']}@{one['project']}.iam.gserviceaccount.com": one[
            "account_id"
        ]
        for one in accounts
    }
    granted = {
        (parts[values["member"]].replace("-", "_"), address.partition('["')[2].split()[0])
        for address, values in production.all("google_cloud_run_v2_service_iam_member").items()
        if values["role"] == "roles/run.invoker" and values["member"] in parts
    }
    called = {(call.caller, call.detail) for call in recorded() if call.method == INVOKE}
    assert granted == called
