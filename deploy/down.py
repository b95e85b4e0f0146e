"""Takes an installation away, with all that it knows."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from deploy import google
from deploy.bundle import write_bundle
from deploy.target import Target
from deploy.terraform import Terraform
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
APIs and Terraform's state stay.
"""
_SERVICE = re.compile(r'google_cloud_run_v2_service\.model\["(?P<model>[^"]+)"\]')


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
        return
    console.print(_DIES.format(project=target.project))
    typed = confirmed if confirmed is not None else typer.prompt("The project's name, to go on")
    if typed != target.project:
        errors.print(f"That is not {target.project}: nothing was deleted.", highlight=False)
        raise typer.Exit(1)
    with told("1. take off the deletion protection", target, "destroy"):
        if terraform.plan(deletion_protection="false"):
            terraform.apply()
    # Terraform never updates these, so it can take no protection off them.
    with told("2. delete the prediction services", target, "destroy"):
        for match in filter(None, map(_SERVICE.fullmatch, resources)):
            google.delete_service(target, f"model-serving-{match['model']}")
    with told("3. delete everything else", target, "destroy"):
        terraform.destroy()
    console.print(f"[green]Turnout is gone from {target.project}.[/green] What is left, to delete:")
    console.print(f"  gcloud storage rm --recursive gs://{target.state_bucket}", highlight=False)
