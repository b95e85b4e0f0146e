"""What Terraform grants to the parts: the tables of terraform/iam.tf, readable without Terraform.

That the tables are what is really planned is tested in tests/terraform.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from tests.permissions.needs import (
    DATABASE,
    IMAGES,
    MODEL_JOBS,
    MODEL_SERVICES,
    MODELS,
    PROJECT,
    SERVING_ACCOUNTS,
    TRAINING,
    WORKFLOW,
    Need,
)
from tests.terraform.checking import ROOT
from tests.terraform.reading import table

# What a permission that was granted on the project is used on.
_IN_PROJECT = {
    "datastore.": DATABASE,
    "run.revisions.": MODEL_SERVICES,
    "run.executions.": MODEL_JOBS,
    "run.jobs.": MODEL_JOBS,
    "workflows.": WORKFLOW,
}
_SCOPES = {
    "dead-letter topic": "the topic training-completed-dead-letter",
    "events topic": "the topic deployment-events",
    "images": IMAGES,
    "models": MODELS,
    "services": MODEL_SERVICES,
    "training buckets": TRAINING,
    "training topic": "the topic training-completed",
}


def granted() -> dict[str, set[Need]]:
    """Return what each part may do, by the part's name; KeyError for a scope that is new."""
    text = (ROOT / "terraform" / "iam.tf").read_text()
    scopes = _texts("role_scopes", text)
    [serving_roles] = re.findall(r"^  serving_roles = (\[.*\])$", text, re.M)
    parts: Mapping[str, list[str]] = {
        **table("part_roles"),
        "serving": ast.literal_eval(serving_roles),
    }
    permissions = table("custom_roles")
    found: dict[str, set[Need]] = {}
    for part, roles in parts.items():
        found[part] = {
            Need(permission, _on(scopes[role], permission))
            for role in roles
            for permission in permissions[role]
        }
        if "traffic" in roles:
            # Whoever may move traffic acts as the models' identities.
            found[part] |= {Need(one, SERVING_ACCOUNTS) for one in permissions["acts_as"]}
    return found


def _on(scope: str, permission: str) -> str:
    if scope != "project":
        return _SCOPES[scope]
    return next((on for begin, on in _IN_PROJECT.items() if permission.startswith(begin)), PROJECT)


def _texts(name: str, text: str) -> dict[str, str]:
    """Return a map of texts out of the file's locals."""
    found = re.search(rf"^  {name}\s*=\s*\{{\n(.*?)^  \}}", text, re.M | re.S)
    assert found, f"iam.tf has no table {name}"
    return dict(re.findall(r'^    (\w+)\s*=\s*"([^"]*)"$', found[1], re.M))
