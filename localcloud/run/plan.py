"""What the fleet of instances is told: plain values made from the stored resources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcloud.run.probe import StartupProbe, startup_probe
from localcloud.run.process import Image, Launch, base_environment
from localcloud.run.template import quantity
from localcloud.run.traffic import Route


@dataclass(frozen=True)
class RevisionPlan:
    """How to run a revision's instance; `launch` is None when the image is unknown here."""

    name: str
    image: str
    launch: Launch | None
    probe: StartupProbe
    request_timeout_s: float
    concurrency: int
    min_instances: int
    memory_bytes: int


@dataclass(frozen=True)
class ServicePlan:
    """One service as the fleet should make it true.

    `deploying` and `ready` hold the revisions in those states; a revision in neither has no
    instance. `public` tells whether callers without a token are let in.
    """

    id: str
    public: bool
    routes: tuple[Route, ...]
    deploying: tuple[RevisionPlan, ...]
    ready: tuple[RevisionPlan, ...]


@dataclass(frozen=True)
class Failure:
    """Why a new revision's instance did not become ready; `reason` names a condition reason."""

    reason: str
    message: str


def revision_plan(
    name: str,
    service_id: str,
    template: Any,
    images: Mapping[str, Image],
    environment: Mapping[str, str],
    logs: Path,
) -> RevisionPlan:
    """Return how to run a completed template.

    The container's own variables win over the local cloud's, those over the image's.
    """
    container = template.containers[0]
    image = images.get(container.image)
    launch = None
    if image is not None:
        entry = tuple(container.command) or tuple(image.command)
        launch = Launch(
            command=entry + tuple(container.args),
            cwd=Path(container.working_dir) if container.working_dir else image.cwd,
            environment={
                **base_environment(),
                **(image.environment or {}),
                **environment,
                **{variable.name: variable.value for variable in container.env},
                "K_SERVICE": service_id,
                "K_REVISION": name,
                "K_CONFIGURATION": service_id,
            },
            log=logs / f"{name}.log",
        )
    return RevisionPlan(
        name=name,
        image=container.image,
        launch=launch,
        probe=startup_probe(container.startup_probe),
        request_timeout_s=template.timeout.seconds + template.timeout.nanos / 1e9,
        concurrency=template.max_instance_request_concurrency,
        min_instances=template.scaling.min_instance_count,
        memory_bytes=int(quantity(container.resources.limits["memory"])),
    )
