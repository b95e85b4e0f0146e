"""What a service's status should say, decided from its specification and its revisions.

The rules are Knative's, which Cloud Run shows through its own API:

- the configuration is as ready as the newest revision;
- the route is ready when every target's revision is; until then the split served before stays;
- the service is ready when both are, so a failed newest revision keeps it FAILED even while a
  split that names other revisions is served as asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from localcloud.run.messages import FAILED, LATEST, RECONCILING, SUCCEEDED
from localcloud.run.traffic import Route, routes_of


@dataclass(frozen=True)
class Verdict:
    """A condition: its state, and for a failure why, and with which code an operation ends."""

    state: int
    message: str = ""
    reason: str = ""
    code: grpc.StatusCode = grpc.StatusCode.OK


@dataclass(frozen=True)
class RevisionFact:
    """One revision as the decision sees it; `state` is deploying, ready or failed."""

    name: str
    number: int
    state: str
    reason: str
    message: str

    @property
    def verdict(self) -> Verdict:
        """Return the revision's Ready condition."""
        if self.state == "ready":
            return Verdict(SUCCEEDED)
        if self.state == "deploying":
            return Verdict(RECONCILING, f"Revision '{self.name}' is being deployed.")
        missing = self.reason == "CONTAINER_MISSING"
        return Verdict(
            FAILED,
            f"Revision '{self.name}' is not ready and cannot serve traffic. {self.message}",
            self.reason,
            grpc.StatusCode.NOT_FOUND if missing else grpc.StatusCode.FAILED_PRECONDITION,
        )


@dataclass(frozen=True)
class Status:
    """The status to be shown, and the routes to be served."""

    routes: tuple[Route, ...]
    latest_ready: str
    configuration: Verdict
    route: Verdict

    @property
    def terminal(self) -> Verdict:
        """Return the Ready condition: failed, else reconciling, else succeeded."""
        for state in (FAILED, RECONCILING):
            for verdict in (self.configuration, self.route):
                if verdict.state == state:
                    return verdict
        return Verdict(SUCCEEDED)


def decide(
    targets: Sequence[Any],
    revisions: Mapping[str, RevisionFact],
    latest_created: str,
    latest_ready: str,
    served: tuple[Route, ...],
) -> Status:
    """Return the status that follows from the specification.

    `targets` is the split asked for, `served` the one served now, `latest_ready` the latest
    ready revision so far ("" for none).
    """
    ready = _latest_ready(revisions, latest_created, latest_ready)
    route = _route(targets, revisions, ready, latest_created)
    return Status(
        routes=routes_of(targets, ready) if route.state == SUCCEEDED else served,
        latest_ready=ready,
        configuration=revisions[latest_created].verdict,
        route=route,
    )


def _latest_ready(revisions: Mapping[str, RevisionFact], latest_created: str, so_far: str) -> str:
    if revisions[latest_created].state == "ready":
        return latest_created
    least = revisions[so_far].number if so_far in revisions else 0
    ready = [r for r in revisions.values() if r.state == "ready" and r.number >= least]
    return max(ready, key=lambda r: r.number).name if ready else ""


def _route(
    targets: Sequence[Any],
    revisions: Mapping[str, RevisionFact],
    latest_ready: str,
    latest_created: str,
) -> Verdict:
    verdicts = []
    for target in targets:
        if target.type_ == LATEST:
            fact = revisions.get(latest_ready) or revisions[latest_created]
        elif target.revision in revisions:
            fact = revisions[target.revision]
        else:
            return Verdict(
                FAILED,
                f"Revision '{target.revision}' does not exist or is deleted. Update all traffic "
                "to route to currently available revisions.",
                "UNKNOWN",
                grpc.StatusCode.INTERNAL,
            )
        verdicts.append(fact.verdict)
    for state in (FAILED, RECONCILING):
        for verdict in verdicts:
            if verdict.state == state:
                return verdict
    return Verdict(SUCCEEDED)
