"""The command lines: train, publish, and both at once.

TensorFlow and Google's clients are imported by the work, not here, so that --help is quick.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from examples.movielens import options
from examples.movielens.message import Deploy
from examples.movielens.settings import NAMED, Settings
from turnout.target import NotRunning, local_environment

if TYPE_CHECKING:
    from examples.movielens.publish import Target

DEFAULT_OUTPUT = Path("build/movielens")
DEFAULT_MODEL = "movies"
DEFAULT_TOPIC = "training-completed"


def train_command() -> None:
    """Run the command line that trains."""
    typer.run(_train)


def publish_command() -> None:
    """Run the command line that publishes a finished run."""
    typer.run(_publish)


def main() -> None:
    """Run the command line that trains and, when asked, publishes."""
    typer.run(_train_and_publish)


def _train(
    run: options.Run,
    settings: options.SettingsName = options.Named.large,
    dimensions: options.Dimensions = None,
    epochs: options.Epochs = None,
    seed: options.Seed = None,
    fold: options.EvaluationFold = options.Fold.held_out,
    output: options.Output = DEFAULT_OUTPUT,
) -> None:
    """Train a two-tower recommender on MovieLens latest-small and export it.

    Prints Recall@10/50/100 on interactions held out from the end of each customer's history,
    beside popularity and item-kNN, and leaves the artifact in OUTPUT/run-N.

    Example: python -m examples.movielens.train --run 1 --settings small
    """
    _run_training(_settings(settings, dimensions, epochs, seed), run, output, fold)


def _publish(
    run: options.Run,
    project: options.Project = "",
    bucket: options.Bucket = "",
    output: options.Output = DEFAULT_OUTPUT,
    model: options.ModelId = DEFAULT_MODEL,
    topic: options.Topic = DEFAULT_TOPIC,
    when: options.DeployWhen = None,
    strategy: options.DeployStrategy = None,
    steps: options.Steps = None,
    over: options.Over = None,
    requested_by: options.RequestedBy = None,
    request_id: options.RequestId = None,
) -> None:
    """Upload OUTPUT/run-N to gs://BUCKET/MODEL/run-N and publish its training-completed message.

    Doing it again is safe: files that are there are left alone, and the receiver knows the run.

    Example: python -m examples.movielens.publish --run 1 --when always
    """
    deploy = _deploy(when, strategy, steps, over, requested_by, request_id)
    _run_publishing(output / f"run-{run}", _target(project, bucket, model, topic), deploy)


def _train_and_publish(
    run: options.Run,
    settings: options.SettingsName = options.Named.large,
    dimensions: options.Dimensions = None,
    epochs: options.Epochs = None,
    seed: options.Seed = None,
    output: options.Output = DEFAULT_OUTPUT,
    publish: bool = typer.Option(
        False, "--publish", help="Upload the artifact and publish the message when done."
    ),
    project: options.Project = "",
    bucket: options.Bucket = "",
    model: options.ModelId = DEFAULT_MODEL,
    topic: options.Topic = DEFAULT_TOPIC,
    when: options.DeployWhen = None,
    strategy: options.DeployStrategy = None,
    steps: options.Steps = None,
    over: options.Over = None,
    requested_by: options.RequestedBy = None,
    request_id: options.RequestId = None,
) -> None:
    """Train a two-tower recommender on MovieLens latest-small; with --publish, announce it.

    Prints Recall@10/50/100 on interactions held out from the end of each customer's history,
    beside popularity and item-kNN. With --publish the artifact goes to gs://BUCKET/MODEL/run-N
    and the training-completed message to the topic, as any training job would do it.

    Example: python -m examples.movielens --run 1 --settings small --publish --when always
    """
    deploy = _deploy(when, strategy, steps, over, requested_by, request_id)
    if not publish and deploy.as_json():
        _refuse("the deployment is asked for in the message: add --publish")
    target = _target(project, bucket, model, topic) if publish else None
    chosen = _settings(settings, dimensions, epochs, seed)
    _run_training(chosen, run, output, options.Fold.held_out)
    if target:
        _run_publishing(output / f"run-{run}", target, deploy)


def _target(project: str, bucket: str, model: str, topic: str) -> Target:
    """Return where to publish: the project that is named, or the local cloud that runs here."""
    from examples.movielens.publish import Target

    if not project:
        try:
            os.environ.update(local_environment(Path(os.environ.get("TURNOUT_DATA", ".turnout"))))
        except NotRunning:
            _refuse("publishing needs --project or TURNOUT_PROJECT, or a local cloud: `turnout up`")
        project = os.environ["TURNOUT_PROJECT"]
        bucket = bucket or options.first(os.environ["TURNOUT_TRAINING_BUCKETS"])
    if not bucket:
        _refuse("publishing needs --bucket or TRAINING_BUCKET")
    return Target(project, bucket, model, topic)


def _deploy(
    when: options.When | None,
    strategy: options.Strategy | None,
    steps: str | None,
    over: str | None,
    requested_by: str | None,
    request_id: str | None,
) -> Deploy:
    percents = None if steps is None else options.parse_steps(steps)
    return Deploy(when, strategy, percents, over, requested_by, request_id)


def _settings(
    name: options.Named, dimensions: int | None, epochs: int | None, seed: int | None
) -> Settings:
    named = NAMED[name]
    asked = {"dimensions": dimensions, "epochs": epochs, "seed": seed}
    changes = {
        field: value
        for field, value in asked.items()
        if value is not None and value != getattr(named, field)
    }
    if not changes:
        return named
    said = ", ".join(f"{field} {value}" for field, value in changes.items())
    suffix = "-".join(f"{field}-{value}" for field, value in changes.items())
    changed = dataclasses.replace(named, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(changed, id=f"{named.id}-{suffix}", name=f"{named.name}, {said}")


def _run_training(settings: Settings, run: int, output: Path, fold: options.Fold) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from examples.movielens.report import as_sentences, as_table
    from examples.movielens.train import train_run

    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"Training run {run}", total=settings.epochs, loss="-")
        report = train_run(
            settings,
            run,
            output / f"run-{run}",
            fold=fold.value,
            on_epoch=lambda done, loss: progress.update(task, completed=done, loss=f"{loss:.4f}"),
        )
    console.print(as_table(report))
    for sentence in as_sentences(report):
        console.print(sentence, highlight=False)
    console.print(
        f"Trained in {report.training_seconds} s; artifact in {output / f'run-{run}'}",
        highlight=False,
    )


def _run_publishing(folder: Path, target: Target, deploy: Deploy) -> None:
    from google.api_core.exceptions import GoogleAPICallError
    from google.cloud import pubsub_v1, storage

    from examples.movielens.publish import NotPublishable, publish_run
    from examples.movielens.upload import ArtifactConflict

    try:
        published = publish_run(
            folder,
            target,
            deploy,
            storage_client=storage.Client(project=target.project),
            publisher=pubsub_v1.PublisherClient(),
        )
    except FileNotFoundError:
        _refuse(f"{folder} holds no finished run; train it first")
    except (ArtifactConflict, NotPublishable) as error:
        _refuse(str(error))
    except GoogleAPICallError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"Uploaded to {published.message['artifact_uri']}")
    typer.echo(f"Published message {published.message_id} to {target.topic}")


def _refuse(reason: str) -> NoReturn:
    typer.echo(f"Error: {reason}", err=True)
    raise typer.Exit(2)
