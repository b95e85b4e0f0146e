"""Terraform over one installation: the project's own state, the target's variables."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.programs import relay, show, take
from deploy.target import Target

FOLDER = Path("terraform")
#: What building the serving image needs: the rest waits for the image.
BUILD_NEEDS = (
    "google_artifact_registry_repository.images",
    "google_storage_bucket.source",
    'google_service_account.part["build"]',
    "google_project_iam_member.build",
    "google_artifact_registry_repository_iam_member.build",
    "google_storage_bucket_iam_member.build",
)
_UNCHANGED, _CHANGES = 0, 2
#: What keeps a resource from being destroyed, as the state has it.
_PROTECTING = {
    "deletion_protection": True,
    "deletion_policy": "PREVENT",
    "delete_protection_state": "DELETE_PROTECTION_ENABLED",
    "force_destroy": False,
}


@dataclass(frozen=True)
class Resource:
    """A resource that the state knows; `values` are its arguments and attributes."""

    address: str
    kind: str
    values: Mapping[str, Any]

    @property
    def protected(self) -> bool:
        """Whether Terraform would refuse to destroy it."""
        return any(self.values.get(name) == value for name, value in _PROTECTING.items())


class Terraform:
    """Runs in the checkout's `terraform/`, what it keeps beside it in `build/`."""

    def __init__(self, target: Target, bundle: Path, image: str | None) -> None:
        """Take the bundle's path, and the image by digest: None where there is none yet."""
        self._target = target
        self._kept = Path("build/terraform") / target.project
        self._plan = self._kept.absolute() / "plan"
        self._environment = {
            **os.environ,
            "TF_DATA_DIR": str(self._kept.absolute()),
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            # Written where Terraform makes a new version of the secret, and kept nowhere else.
            "TF_VAR_dashboard_secret": secrets.token_urlsafe(48),
        }
        self._variables = {
            "project": target.project,
            "region": target.region,
            # Relative: the same on every machine, so that none sees a change.
            "bundle": os.path.relpath(bundle, FOLDER),
            "serving_image": image or f"{target.image}@sha256:{'0' * 64}",
        }

    def initialise(self) -> None:
        """Fetch the providers and find the state. Again it only looks."""
        # A plan may hold secrets.
        self._kept.mkdir(parents=True, exist_ok=True, mode=0o700)
        backend = {"bucket": self._target.state_bucket, "prefix": "turnout"}
        self._show("init", *(f"-backend-config={k}={v}" for k, v in backend.items()))

    def plan(self, targets: tuple[str, ...] = (), **variables: str) -> bool:
        """Plan and show what would change; return whether anything would."""
        arguments = [f"-target={address}" for address in targets]
        arguments += self._variable_arguments(variables)
        arguments += ["-detailed-exitcode", f"-out={self._plan}"]
        return self._show("plan", *arguments, fine=(_UNCHANGED, _CHANGES)) == _CHANGES

    def apply(self) -> None:
        """Do exactly what was planned and shown; ProgramFailed with what Terraform said."""
        relay(self._command("apply", str(self._plan)), self._environment)

    def destroy(self) -> None:
        """Delete everything that the state knows."""
        arguments = self._variable_arguments({"deletion_protection": "false"})
        self._show("destroy", "-auto-approve", *arguments)

    def show_outputs(self) -> None:
        """Print the outputs."""
        self._show("output")

    def resources(self) -> list[Resource]:
        """Return what the state knows."""
        state = json.loads(take(self._command("show", "-json"), self._environment))
        known = state.get("values", {}).get("root_module", {}).get("resources", [])
        return [
            Resource(one["address"], one["type"], one["values"])
            for one in known
            if one["mode"] == "managed"
        ]

    def _variable_arguments(self, more: Mapping[str, str]) -> list[str]:
        own = self._target.variables_file
        files = [f"-var-file={own.relative_to(FOLDER)}"] if own else []
        variables = self._variables | dict(more)
        return [*files, *(f"-var={name}={value}" for name, value in variables.items())]

    def _show(self, verb: str, *arguments: str, fine: tuple[int, ...] = (0,)) -> int:
        return show(self._command(verb, *arguments), self._environment, fine)

    def _command(self, verb: str, *arguments: str) -> list[str]:
        return ["terraform", f"-chdir={FOLDER}", verb, *arguments]
