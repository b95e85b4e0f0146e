"""`python -m deploy`: what `make bundle`, `make deploy` and the others run, from the checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.bundle import write_bundle
from deploy.down import down as take_down
from deploy.image import write_image_source
from deploy.imports import NotBuilt
from deploy.locks import NotLocked, write_locks
from deploy.target import NoSuchTarget, named
from deploy.up import BUILD, Wishes
from deploy.up import up as put_up
from turnout.output import errors

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

Project = Annotated[str, typer.Option(help="The Google Cloud project, by its id.")]
Region = Annotated[str, typer.Option(help="Where everything runs; without it, europe-central2.")]
Environment = Annotated[
    str, typer.Option(help="Whose variables: terraform/environments/ENVIRONMENT.tfvars.")
]


@app.command()
def bundle() -> None:
    """Write the functions' source bundle into build/ and print its path."""
    print(write_bundle(Path(), BUILD))


@app.command()
def image() -> None:
    """Write what the serving image is built from into build/ and print its path."""
    print(write_image_source(Path(), BUILD))


@app.command()
def lock() -> None:
    """Write the lists of pinned packages anew (needs uv)."""
    write_locks(Path())


@app.command()
def up(
    project: Project,
    region: Region = "",
    environment: Environment = "",
    build_region: Annotated[
        str, typer.Option(help="Where Cloud Build builds; without it, in the region.")
    ] = "",
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would happen.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build the image again, on today's base image.")
    ] = False,
    refuse: Annotated[
        str, typer.Option(help="Refuse an image with such known faults: CRITICAL or CRITICAL|HIGH.")
    ] = "",
) -> None:
    """Put Turnout onto Google Cloud, or bring it up to date."""
    wishes = Wishes(plan=plan, yes=yes, rebuild=rebuild, refuse=refuse)
    put_up(named(project, region, environment, build_region), wishes)


@app.command()
def down(
    project: Project,
    region: Region = "",
    environment: Environment = "",
    confirm: Annotated[
        str | None, typer.Option(help="The project's name again, where nobody can type it.")
    ] = None,
) -> None:
    """Delete Turnout from Google Cloud, with all that it knows."""
    take_down(named(project, region, environment), confirm)


def main() -> None:
    """Run a command; what it refuses is said in one line."""
    try:
        app()
    except (NoSuchTarget, NotBuilt, NotLocked) as refused:
        errors.print(f"refused: {refused}", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
