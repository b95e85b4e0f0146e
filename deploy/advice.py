"""What to do about the errors that a first deployment meets, by Google's and Terraform's words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from deploy.target import Target

#: These go away by themselves, within ten minutes or so.
_PASSING = (
    # A metric made of logs, and an objective over it in the same apply.
    r"metric referenced by the provided filter is unknown",
    r"cannot find metric\(s\) that match",
    # An API that was enabled just now.
    r"has not been used in project \S+ before or it is disabled",
)
_ADVICE = (
    (
        r"can't create a role_id .{0,80}marked for deletion",
        "Google gives a deleted role's name back after 37 days only. Say another beginning for all "
        'of them in your variables, such as role_prefix = "turnout2".',
    ),
    (
        r"(max instances must be set to|maxscale may not exceed|quota violated)",
        "The region's quota for Cloud Run's CPU or memory is smaller than the instances at most "
        "need: a lower function_instances, or max_instances of the model, or ask for more quota "
        "(docs/limits.md).",
    ),
    (
        r"gcp-sa-iap\S* does not exist",
        "Identity-Aware Proxy's own account is not there: gcloud beta services identity create "
        "--service=iap.googleapis.com --project={project}",
    ),
    (
        r"(billingbudgets|creating budget).{0,400}(403|permission)",
        "A budget needs roles/billing.costsManager on the billing account: gcloud billing accounts "
        "add-iam-policy-binding ACCOUNT --role=roles/billing.costsManager --member=user:YOU. Or "
        "leave billing_account out.",
    ),
)
_PROTECTED = r"cannot (?:destroy|delete) .{0,80}deletion_protection"
#: How what Terraform made half of, and may not destroy, is deleted.
DELETED = {
    "google_cloud_run_v2_service": "gcloud run services delete model-serving-{key}",
    "google_cloud_run_v2_job": "gcloud run jobs delete prepare-{key}",
}
_ADDRESS = re.compile(r'\b(google_cloud_run_v2_(?:service|job))\.\w+\["([a-z0-9-]+)"\]')


def passes(said: str) -> bool:
    """Return whether what Terraform said of an apply goes away by itself."""
    return any(re.search(pattern, _plain(said)) for pattern in _PASSING)


def advice(said: str, target: Target) -> Iterator[str]:
    """Yield what to do about what a program said."""
    plain = _plain(said)
    for pattern, what in _ADVICE:
        if re.search(pattern, plain):
            yield what.format(project=target.project)
    if re.search(_PROTECTED, plain):
        yield from _begin_anew(plain, target)


def _begin_anew(plain: str, target: Target) -> Iterator[str]:
    yield (
        "What failed while it was made is made anew, and its deletion protection stands in the "
        "way. Where it never served (`turnout models` shows no version of it), delete it, and the "
        "next apply makes it."
    )
    for kind, key in sorted(set(_ADDRESS.findall(plain))):
        region = target.models.get(key, {}).get("region") or target.region
        where = f"--project={target.project} --region={region}"
        yield f"  {DELETED[kind].format(key=key)} {where}"


def _plain(said: str) -> str:
    """Return it in one line: Terraform breaks lines, and draws a border beside them."""
    return re.sub(r"[\s│╷╵]+", " ", re.sub(r"\x1b\[[\d;]*m", "", said)).lower()
