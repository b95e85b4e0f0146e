"""Where to: one Google Cloud project, which holds one installation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import hcl2  # of the extra `deploy`
from hcl2.utils import SerializationOptions
from lark.exceptions import LarkError

ENVIRONMENTS = Path("terraform/environments")
MODELS = Path("terraform/models.auto.tfvars.json")
REGION = "europe-central2"
_PLAIN = SerializationOptions(with_comments=False, strip_string_quotes=True)


class NoSuchTarget(RuntimeError):
    """What was asked for contradicts itself; the message says how."""


@dataclass(frozen=True)
class Target:
    """A project and a region; `build_region` is where Cloud Build builds the image.

    `environment` names a file of Terraform's variables, or is empty. The other names are
    Terraform's, too: terraform/artifacts.tf, buckets.tf and identities.tf.
    """

    project: str
    region: str
    environment: str = ""
    build_region: str = ""

    @property
    def variables_file(self) -> Path | None:
        """The environment's own variables, from the checkout's root."""
        return ENVIRONMENTS / f"{self.environment}.tfvars" if self.environment else None

    @cached_property
    def variables(self) -> dict[str, Any]:
        """What that file says, by the variables' names; NoSuchTarget where it is no HCL."""
        file = self.variables_file
        if file is None:
            return {}
        try:
            return dict(hcl2.loads(file.read_text(), serialization_options=_PLAIN))
        except LarkError as error:
            raise NoSuchTarget(f"{file} cannot be read: {error}") from None

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """The declared models: the environment's own, where it declares any."""
        return dict(self.variables.get("models") or json.loads(MODELS.read_text())["models"])

    @property
    def state_bucket(self) -> str:
        """The bucket of Terraform's state, which Terraform itself cannot make."""
        return f"{self.project}-terraform-state"

    @property
    def source_bucket(self) -> str:
        """The bucket of what is built from."""
        return f"{self.project}-turnout-source"

    @property
    def image(self) -> str:
        """The serving image, without tag or digest."""
        return f"{self.region}-docker.pkg.dev/{self.project}/turnout/serving"

    @property
    def builder(self) -> str:
        """The service account that builds."""
        return (
            f"projects/{self.project}/serviceAccounts/build@{self.project}.iam.gserviceaccount.com"
        )

    def said_to(self, command: str) -> str:
        """Return how `make` is told to do something with this target."""
        told = f"make {command} PROJECT={self.project} REGION={self.region}"
        return told + (f" ENVIRONMENT={self.environment}" if self.environment else "")


def named(project: str, region: str, environment: str, build_region: str = "") -> Target:
    """Return the target; what is not named is as the environment's file says.

    NoSuchTarget where the environment has no file, or the file is another project's.
    """
    target = Target(project, region, environment, build_region)
    file = target.variables_file
    if file is None:
        return Target(project, region or REGION, environment, build_region)
    if not file.exists():
        known = ", ".join(sorted(path.stem for path in ENVIRONMENTS.glob("*.tfvars")))
        raise NoSuchTarget(f"there is no {file}; ENVIRONMENT is one of {known}")
    said = target.variables
    if said.get("project", project) != project:
        raise NoSuchTarget(
            f"{file} is for the project {said['project']}, not for {project}: edit the file, "
            "or name the other project"
        )
    return Target(project, region or said.get("region", REGION), environment, build_region)
