"""What the fleet of instances is told: plain values made from the stored resources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcloud.run.probe import StartupProbe, startup_probe
from localcloud.run.process import Image, Launch, base_environment
from localcloud.run.template import quantity
from localcloud.run.traffic import Route

# The variables that the local cloud itself gives to the containers of a region.
Environment = Callable[[str], Mapping[str, str]]


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
    region: str
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
    """Return how to run a completed template."""
    container = template.containers[0]
    own = {"K_SERVICE": service_id, "K_REVISION": name, "K_CONFIGURATION": service_id}
    return RevisionPlan(
        name=name,
        image=container.image,
        launch=container_launch(container, images, environment, own, logs / f"{name}.log"),
        probe=startup_probe(container.startup_probe),
        request_timeout_s=template.timeout.seconds + template.timeout.nanos / 1e9,
        concurrency=template.max_instance_request_concurrency,
        min_instances=template.scaling.min_instance_count,
        memory_bytes=int(quantity(container.resources.limits["memory"])),
    )


def container_launch(
    container: Any,
    images: Mapping[str, Image],
    environment: Mapping[str, str],
    own: Mapping[str, str],
    log: Path,
    listens: bool = True,
) -> Launch | None:
    """Return how to start a container, None when its image is unknown here.

    Its command replaces the image's entry point, its arguments follow. `own` holds what only
    Cloud Run sets and wins over all; then the container's variables, the local cloud's in
    `environment`, the image's.
    """
    image = images.get(container.image)
    if image is None:
        return None
    entry = tuple(container.command) or tuple(image.command)
    return Launch(
        command=entry + tuple(container.args),
        cwd=Path(container.working_dir) if container.working_dir else image.cwd,
        environment={
            **base_environment(),
            **(image.environment or {}),
            **environment,
            **{variable.name: variable.value for variable in container.env},
            **own,
        },
        log=log,
        listens=listens,
    )
