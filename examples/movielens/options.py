"""The options that the commands share."""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer


class Fold(StrEnum):
    """Which interactions a run is evaluated on."""

    held_out = "held_out"
    validation = "validation"


class Named(StrEnum):
    """The settings that have a name."""

    small = "small"
    large = "large"


class When(StrEnum):
    """When a finished run is deployed."""

    off = "off"
    if_better = "if_better"
    always = "always"


class Strategy(StrEnum):
    """How traffic moves."""

    immediate = "immediate"
    gradual = "gradual"


TRAIN, TARGET, DEPLOY = "What to train", "Where to publish", "What to ask of the deployment"


def parse_steps(text: str) -> list[int]:
    """Return `10,50,100` as numbers; raises typer.BadParameter unless they ascend in 1-100."""
    try:
        steps = [int(step) for step in text.split(",")]
    except ValueError:
        raise typer.BadParameter("give whole percents, such as 10,50,100") from None
    ascending = all(a < b for a, b in pairwise(steps))
    if not ascending or steps[0] < 1 or steps[-1] > 100:
        raise typer.BadParameter("the percents must ascend within 1 to 100")
    return steps


def _checked_steps(text: str | None) -> str | None:
    if text is not None:
        parse_steps(text)
    return text


def first(buckets: str) -> str:
    return buckets.split(",")[0].strip()


Run = Annotated[
    int, typer.Option("--run", min=1, help="The run's number; an artifact's name for good.")
]
Output = Annotated[
    Path,
    typer.Option("--output", help="Folder that holds the runs; this one goes to run-N in it."),
]
SettingsName = Annotated[
    Named,
    typer.Option(
        "--settings",
        help="small: 8 dimensions, 15 epochs. large: 64 dimensions, 60 epochs.",
        rich_help_panel=TRAIN,
    ),
]
Dimensions = Annotated[
    int | None,
    typer.Option("--dim", min=1, help="Other dimensions of a vector.", rich_help_panel=TRAIN),
]
Epochs = Annotated[
    int | None,
    typer.Option("--epochs", min=1, help="Other number of epochs.", rich_help_panel=TRAIN),
]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Other random seed.", rich_help_panel=TRAIN)
]
EvaluationFold = Annotated[
    Fold,
    typer.Option(
        "--fold",
        help="validation sets the held-out interactions aside and splits the rest again: for "
        "choosing settings. Such a run cannot be published.",
        rich_help_panel=TRAIN,
    ),
]

Project = Annotated[
    str,
    typer.Option(
        "--project",
        envvar=["TURNOUT_PROJECT", "GOOGLE_CLOUD_PROJECT"],
        help="Project of the topic and the bucket; without one, the local cloud that runs here.",
        rich_help_panel=TARGET,
    ),
]
Bucket = Annotated[
    str,
    typer.Option(
        "--bucket",
        envvar=["TRAINING_BUCKET", "TURNOUT_TRAINING_BUCKETS"],
        parser=first,
        metavar="NAME",
        help="Training bucket; of a comma-separated list the first.",
        rich_help_panel=TARGET,
    ),
]
ModelId = Annotated[
    str, typer.Option("--model", help="The model this is a run of.", rich_help_panel=TARGET)
]
Topic = Annotated[str, typer.Option("--topic", help="Topic that is told.", rich_help_panel=TARGET)]

DeployWhen = Annotated[
    When | None,
    typer.Option(
        "--when",
        help="Default: the model's policy.",
        rich_help_panel=DEPLOY,
    ),
]
DeployStrategy = Annotated[
    Strategy | None,
    typer.Option("--strategy", help="Default: the model's policy.", rich_help_panel=DEPLOY),
]
Steps = Annotated[
    str | None,
    typer.Option(
        "--steps",
        # Looked at with the other options, before anything is trained.
        callback=_checked_steps,
        metavar="PERCENTS",
        help="Traffic shares of a gradual rollout, such as 10,50,100.",
        rich_help_panel=DEPLOY,
    ),
]
Over = Annotated[
    str | None,
    typer.Option(
        "--over", help="The whole rollout's bake time, such as 30s or 1h.", rich_help_panel=DEPLOY
    ),
]
RequestedBy = Annotated[
    str | None,
    typer.Option("--requested-by", help="Who asks, on the record.", rich_help_panel=DEPLOY),
]
RequestId = Annotated[
    str | None,
    typer.Option(
        "--request-id",
        help="Which request this is: a fresh one deploys a run again.",
        rich_help_panel=DEPLOY,
    ),
]
