"""The rules of a traffic split: what may be written, and where it leads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from localcloud.run.errors import InvalidArgument
from localcloud.run.messages import BY_REVISION, LATEST, TrafficTarget
from localcloud.run.names import check_tag


@dataclass(frozen=True)
class Route:
    """One entry of the split as it is served: `percent` (0-100) and maybe a tag's own URL."""

    revision: str
    percent: int
    tag: str
    latest: bool


def completed(targets: Iterable[Any]) -> list[Any]:
    """Return the targets to store: an empty list means all to the latest ready revision."""
    return list(targets) or [TrafficTarget(type_=LATEST, percent=100)]


def check_targets(service_id: str, targets: Sequence[Any]) -> None:
    """Raise InvalidArgument unless the targets are a split that Cloud Run accepts.

    Whether a named revision exists is not asked here: Cloud Run takes the write and its
    operation fails.
    """
    for target in targets:
        _check_target(service_id, target)
    total = sum(target.percent for target in targets)
    if total != 100:
        raise InvalidArgument(f"Traffic targets sum to {total}, want 100")
    tags = [target.tag for target in targets if target.tag]
    for tag in tags:
        if tags.count(tag) > 1:
            raise InvalidArgument(f"traffic tag {tag!r} is used more than once")


def _check_target(service_id: str, target: Any) -> None:
    if not 0 <= target.percent <= 100:
        raise InvalidArgument(f"traffic percent {target.percent} is not between 0 and 100")
    if target.type_ == LATEST and target.revision:
        raise InvalidArgument(
            f"traffic target of type LATEST names the revision {target.revision!r}; leave it out"
        )
    if target.type_ == BY_REVISION and ("/" in target.revision or not target.revision):
        raise InvalidArgument(
            f"traffic target of type REVISION needs a revision's short name, got "
            f"{target.revision!r}"
        )
    if target.type_ not in (LATEST, BY_REVISION):
        raise InvalidArgument("traffic target needs a type: LATEST or REVISION")
    if target.tag:
        check_tag(service_id, target.tag)


def routes_of(targets: Iterable[Any], latest_ready: str) -> tuple[Route, ...]:
    """Return where the targets lead while `latest_ready` is the latest ready revision."""
    return tuple(
        Route(
            revision=latest_ready if target.type_ == LATEST else target.revision,
            percent=target.percent,
            tag=target.tag,
            latest=target.type_ == LATEST,
        )
        for target in targets
    )


def shares(routes: Iterable[Route]) -> dict[str, int]:
    """Return each revision's total share in percent, also those with 0."""
    totals: dict[str, int] = {}
    for route in routes:
        totals[route.revision] = totals.get(route.revision, 0) + route.percent
    return totals
