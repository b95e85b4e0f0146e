"""Takes an installation away, with all that it knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from deploy import google
from deploy.bundle import write_bundle
from deploy.target import Target
from deploy.terraform import Resource, Terraform
from deploy.up import BUILD, check, told
from turnout.output import console, errors

_DIES = """\
This deletes Turnout from project [bold]{project}[/bold], and nothing brings it back:

  - every prediction service: applications get no more answers
  - Firestore's documents: models, deployments and who did what, API keys, serving metrics
  - the serving bucket, and the training buckets that Terraform made, with every model in them
  - serving images, functions, the workflow, topics with the messages in them, alerts

Deletion protection stands in the way on purpose; it is taken off first. Cloud Storage keeps deleted
objects for a week; what else can be brought back says docs/disaster-recovery.md. The project, its
APIs, Firestore's backups and Terraform's state stay.

Who deploys again later than in a week and before 37 days are over needs other names for the
project's own roles, because Google does not give a deleted role's name back sooner: say then
role_prefix = "turnout2" in the variables.
"""
_SERVICE, _BUNDLE = "google_cloud_run_v2_service", "google_storage_bucket_object.bundle"


def down(target: Target, confirmed: str | None) -> None:
    """Delete everything once the project's name was typed; typer.Exit(1) otherwise."""
    check(target)
    with told("Looking at the project", target, "destroy"):
        there = google.has_state_bucket(target)
        image = google.find_image(target) if there else None
        terraform = Terraform(target, write_bundle(Path(), BUILD), image)
        if there:
            terraform.initialise()
        resources = terraform.resources() if there else []
    if not resources:
        console.print(f"There is no Turnout in {target.project}.")
        if there:
            _say_what_is_left(target)
        return
    console.print(_DIES.format(project=target.project))
    typed = confirmed if confirmed is not None else typer.prompt("The project's name, to go on")
    if typed != target.project:
        errors.print(f"That is not {target.project}: nothing was deleted.", highlight=False)
        raise typer.Exit(1)
    with told("1. take off the deletion protection", target, "destroy"):
        _take_off_protection(target, image, resources)
    # Terraform never updates these, so it can take no protection off them.
    with told("2. delete the prediction services", target, "destroy"):
        for service in (one for one in resources if one.kind == _SERVICE):
            google.delete_service(target, service.values["name"], service.values["location"])
    with told("3. delete everything else", target, "destroy"):
        terraform.destroy()
    console.print(f"[green]Turnout is gone from {target.project}.[/green]")
    _say_what_is_left(target)


def _say_what_is_left(target: Target) -> None:
    with told("What is left, and what deletes it", target, "destroy"):
        for command in google.left_over(target):
            console.print(f"  {command}", highlight=False, soft_wrap=True)


def _take_off_protection(target: Target, image: str | None, resources: Sequence[Resource]) -> None:
    """Let Terraform destroy what it knows. What has no protection any more is left alone.

    Only that, and with the bundle that runs: the functions that these need would otherwise be
    built anew from this checkout, only to be deleted.
    """
    protected = [one.address for one in resources if one.protected and one.kind != _SERVICE]
    if not protected:
        return
    names = [one.values["name"] for one in resources if one.address == _BUNDLE]
    running = google.fetch_bundle(target, names[0], BUILD) if names else None
    terraform = Terraform(target, running or write_bundle(Path(), BUILD), image)
    if terraform.plan(tuple(protected), deletion_protection="false"):
        terraform.apply()
