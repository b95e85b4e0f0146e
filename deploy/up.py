"""Puts an installation onto Google Cloud, or brings it up to date: every step can be repeated."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import typer
from rich.progress import track

from deploy import google
from deploy.advice import advice, passes
from deploy.bundle import write_bundle
from deploy.costs import warm_instances
from deploy.image import write_image_source
from deploy.prerequisites import missing
from deploy.programs import ProgramFailed
from deploy.target import Target
from deploy.terraform import BUILD_NEEDS, Terraform
from turnout.output import console, errors

BUILD = Path("build")
ENABLE, STATE, BEGIN, NEEDS, IMAGE, REST = (
    "enable APIs, and Pub/Sub's own account",
    "make the bucket of Terraform's state",
    "begin with Terraform",
    "make what building the image needs",
    "build the serving image",
    "everything else",
)
#: After an error that goes away by itself this long, in seconds, before the rest is applied: Google
#: speaks of ten minutes.
WAITS_S = (60, 120, 180, 300)
#: What an installation lacks where these lists are empty; terraform/variables.tf has them.
NOBODY = {
    "alert_emails": "alerts reach nobody",
    "operators": "nobody but the project's owners may roll back or cancel with the command line",
    "dashboard_access": "nobody but the project's owners may open the dashboard",
    "dashboard_admins": "nobody may make API keys in the dashboard",
}
_REGIONS = (
    "Some projects may build in a few regions only (FAILED_PRECONDITION, quota restrictions): say "
    "BUILD_REGION=europe-west1 or us-central1 as well."
)
_FRESH = (
    "A fresh project's APIs and permissions take some minutes to be known everywhere: 403 and "
    "'has not been used before' often go away by themselves."
)


@dataclass(frozen=True)
class Wishes:
    """How to go about it.

    `plan` only shows; `yes` asks nothing; `rebuild` builds an image again that exists, on today's
    base; `refuse` names severities of known faults, such as CRITICAL, whose images are not pushed:
    the image is built again, since an image that was pushed is not scanned.
    """

    plan: bool = False
    yes: bool = False
    rebuild: bool = False
    refuse: str = ""


@dataclass(frozen=True)
class Found:
    """What there is: built here, and in the project. `image` is by digest."""

    bundle: Path
    source: Path
    apis_missing: list[str]
    pubsub_agent: bool
    state_bucket: bool
    image: str | None

    @property
    def tag(self) -> str:
        """The source's hash."""
        return self.source.stem.partition("-")[2]

    @property
    def complete(self) -> bool:
        """True where only Terraform can say whether there is something to do."""
        ready = self.state_bucket and self.pubsub_agent and not self.apis_missing
        return ready and self.image is not None


def up(target: Target, wishes: Wishes) -> None:
    """Do whatever is not done yet; typer.Exit(1) with what to do where something fails."""
    check(target)
    found = _look(target, wishes)
    _explain(target, found)
    if wishes.plan:
        _plan(target, found)
        return
    if not found.complete:
        _confirm("Go on?", wishes)
    if found.apis_missing or not found.pubsub_agent:
        with told(f"1. {ENABLE}", target, hint=_FRESH):
            if found.apis_missing:
                google.enable_apis(target, found.apis_missing)
            # Last: that it has its role says that all of this was done.
            google.make_pubsub_agent(target)
    if not found.state_bucket:
        with told(f"2. {STATE}", target, hint=_FRESH):
            google.make_state_bucket(target)
    with told(f"3. {BEGIN}", target):
        Terraform(target, found.bundle, found.image).initialise()
    image = found.image or _build(target, wishes, found)
    _apply(Terraform(target, found.bundle, image), target, wishes)


def check(target: Target) -> None:
    """typer.Exit(1) with everything that is missing on this machine and in the project."""
    problems = missing(target)
    for problem in problems:
        _complain(f"missing: {problem}")
    if problems:
        raise typer.Exit(1)


@contextmanager
def told(step: str, target: Target, command: str = "deploy", hint: str = "") -> Iterator[None]:
    """Name a step, and where it fails what to do; typer.Exit(1)."""
    console.rule(step, align="left")
    try:
        yield
    except ProgramFailed as failed:
        _complain(f"failed: {step}\n{failed}")
        for what in (hint, *advice(failed.said, target)):
            if what:
                _complain(what)
        _complain(
            f"Put that right, then say the same again: {target.said_to(command)}\n"
            "What is done is not done twice; it goes on from here."
        )
        raise typer.Exit(1) from failed


def _complain(text: str) -> None:
    # What others print may hold brackets, which are no markup.
    errors.print(text, markup=False, highlight=False, soft_wrap=True)


def _confirm(question: str, wishes: Wishes) -> None:
    if not wishes.yes:
        typer.confirm(question, abort=True)


def _look(target: Target, wishes: Wishes) -> Found:
    with told("Looking at the project", target, hint=_FRESH):
        apis = google.missing_apis(target)
        bundle, source = write_bundle(Path(), BUILD), write_image_source(Path(), BUILD)
        agent = not apis and google.has_pubsub_agent(target)
        bare = Found(bundle, source, apis, agent, google.has_state_bucket(target), None)
        anew = apis or wishes.rebuild or wishes.refuse
        known = None if anew else google.find_image(target, bare.tag)
    return replace(bare, image=known)


def _explain(target: Target, found: Found) -> None:
    needs = "a repository, a bucket and a service account: terraform, these alone"
    steps = {
        ENABLE: ", ".join(
            [api.partition(".")[0] for api in found.apis_missing]
            + ([] if found.pubsub_agent else ["the account that delivers"])
        ),
        STATE: "" if found.state_bucket else f"gs://{target.state_bucket}, versioned",
        BEGIN: "fetches its providers",
        NEEDS: "" if found.image else needs,
        IMAGE: "" if found.image else f"{target.image}:{found.tag}, some ten minutes",
        REST: f"terraform shows its plan first; functions from {found.bundle}",
    }
    console.print(f"Turnout in project [bold]{target.project}[/bold], {target.region}:\n")
    for number, (step, still) in enumerate(steps.items(), 1):
        mark = "[yellow]to do[/yellow]" if still else "[green]done [/green]"
        console.print(f"  {mark} {number}. {step}" + (f": {still}" if still else ""))
    console.print("\nWhat it costs while nobody uses it (the rest: docs/costs.md):")
    for model, (least, most) in warm_instances(target).items():
        console.print(
            f"  ${least:.0f} to ${most:.0f} a month, by region: the warm instances of {model}"
        )
    console.print("  functions, Firestore, storage and builds are billed by use\n")
    for name, lacks in NOBODY.items():
        if not target.variables.get(name) and f"TF_VAR_{name}" not in os.environ:
            console.print(f"[yellow]{name} is empty[/yellow]: {lacks}")
    where = target.variables_file or "docs/deploying.md#say-who"
    console.print(f"Who is told and who may do what: {where}\n")


def _plan(target: Target, found: Found) -> None:
    if not found.state_bucket:
        console.print(f"Nothing was changed. Terraform can plan once this is done: {STATE}.")
        return
    terraform = Terraform(target, found.bundle, found.image)
    with told(f"6. {REST}", target):
        terraform.initialise()
        terraform.plan()
    console.print("Nothing was changed.")


def _build(target: Target, wishes: Wishes, found: Found) -> str:
    """Build the image of this source and return it by digest."""
    with told(f"4. {NEEDS}", target, hint=_FRESH):
        terraform = Terraform(target, found.bundle, None)
        if terraform.plan(BUILD_NEEDS):
            terraform.apply()
    again = wishes.rebuild or wishes.refuse
    now = f"-{datetime.now(UTC):%Y%m%d%H%M%S}" if again else ""
    with told(f"5. {IMAGE}", target, hint=_REGIONS):
        google.build_image(target, found.source, found.tag + now, wishes.refuse)
        image = google.find_image(target, found.tag)
        if image is None:
            raise ProgramFailed(
                ["gcloud", "artifacts", "docker", "images", "list", target.image],
                f"the build succeeded, and no image has the tag {found.tag}{now}",
            )
    return image


def _apply_patiently(terraform: Terraform) -> None:
    """Apply, and what is left once more after an error that goes away by itself; ProgramFailed.

    Nothing is asked again: what is left is a part of what was shown and wanted.
    """
    for wait_s in WAITS_S:
        try:
            terraform.apply()
        except ProgramFailed as failed:
            if not passes(failed.said):
                raise
            console.print(
                "\nGoogle does not know everywhere yet what was made just now, which takes up to "
                f"ten minutes. In {wait_s} seconds what is left is planned and applied."
            )
            for _ in track(range(wait_s), "Waiting", console=console):
                time.sleep(1)
            if terraform.plan():
                continue
        return
    terraform.apply()


def _apply(terraform: Terraform, target: Target, wishes: Wishes) -> None:
    with told(f"6. {REST}", target, hint=_FRESH):
        changes = terraform.plan()
    if changes:
        _confirm("Apply this plan?", wishes)
        with told(f"6. {REST}", target, hint=_FRESH):
            if target.variables.get("dashboard_domain"):
                google.make_agent(target, google.IAP)
            _apply_patiently(terraform)
    with told("What there is now", target):
        terraform.show_outputs()
    command = f"turnout --project {target.project} --region {target.region}"
    console.print(f"\n[green]Turnout is up to date in {target.project}.[/green] Next:")
    console.print(f"  {command} models   # what serves what", highlight=False)
    console.print(f"  {command} open     # the dashboard", highlight=False)
