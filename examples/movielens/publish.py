"""Upload a finished run's artifact and publish the training-completed message.

    python -m examples.movielens.publish --run 1
    python -m examples.movielens.publish --run 2 --when always --strategy gradual \\
        --steps 10,50,100 --over 1h

The clients are Google's own; PUBSUB_EMULATOR_HOST and STORAGE_EMULATOR_HOST lead them elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.cloud import pubsub_v1, storage

from examples.movielens.message import Deploy, training_completed
from examples.movielens.report import Report
from examples.movielens.train import HELD_OUT
from examples.movielens.upload import upload_artifact

PUBLISH_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Target:
    """Where a run is published."""

    project: str
    bucket: str
    model_id: str
    topic: str


@dataclass(frozen=True)
class Published:
    """What was published: the message, and the id that Pub/Sub gave it."""

    message: dict[str, Any]
    message_id: str


class NotPublishable(Exception):
    """The run was trained to try settings; its figures are not those of the held-out customers."""

    def __init__(self, fold: str) -> None:
        super().__init__(f"this run was evaluated on the {fold} fold; train it without --fold")


def publish_run(
    folder: Path,
    target: Target,
    deploy: Deploy,
    *,
    storage_client: storage.Client,
    publisher: pubsub_v1.PublisherClient,
) -> Published:
    """Upload `folder`, then publish its message; returns once Pub/Sub has acknowledged it.

    Raises FileNotFoundError where `folder` holds no finished run, ArtifactConflict, and what
    Google's clients raise.
    """
    report = Report.read(folder)
    if report.fold != HELD_OUT:
        raise NotPublishable(report.fold)
    prefix = f"{target.model_id}/run-{report.run_number}"
    artifact_uri = upload_artifact(storage_client, folder, target.bucket, prefix)
    message = training_completed(report, target.model_id, artifact_uri, deploy)
    # Published only when every file is in place. Publishing again is safe: the receiver knows
    # the run and the request by their numbers, not by the message's id.
    future = publisher.publish(
        publisher.topic_path(target.project, target.topic), json.dumps(message).encode()
    )
    return Published(message, future.result(timeout=PUBLISH_TIMEOUT_S))


if __name__ == "__main__":
    from examples.movielens.commands import publish_command

    publish_command()
