"""What a refused or unanswered write of a Cloud Run service comes to."""

from __future__ import annotations

from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import run_v2

from shared.errors import Refused
from shared.gcp.cloud_run import RunServices
from shared.ports import Stale
from tests.fakes import SETTINGS
from tests.unit.stepping import SERVICE, V1, V2

POLICY = "Constraint constraints/run.allowedIngress violated"


class Services:
    """The Services of Cloud Run: one service, whose writes meet what a test says.

    `changed` says that somebody else's write came first.
    """

    def __init__(self) -> None:
        self.service = run_v2.Service(
            name=f"{SETTINGS.parent}/services/{SERVICE}",
            etag='"one"',
            latest_ready_revision=f"{SETTINGS.parent}/services/{SERVICE}/revisions/{V2}",
        )
        self.meets: Exception | None = None
        self.changed = False
        self.writes = 0

    def get_service(self, **_: Any) -> run_v2.Service:
        return self.service

    def update_service(self, **_: Any) -> None:
        self.writes += 1
        if self.changed:
            self.service.etag = '"two"'
        if self.meets:
            raise self.meets


@pytest.fixture
def cloud() -> Services:
    return Services()


@pytest.fixture
def services(cloud: Services) -> RunServices:
    unused: Any = None
    return RunServices(cloud, unused, SETTINGS, lambda _: SETTINGS.parent)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("meets", "changed", "raised"),
    [
        (exceptions.Aborted("Conflict for resource"), True, Stale),
        (exceptions.ServiceUnavailable("connection reset"), False, Stale),
        (exceptions.DeadlineExceeded("Deadline Exceeded"), True, Stale),
        (exceptions.FailedPrecondition("the etag does not match"), True, Stale),
        (exceptions.FailedPrecondition(POLICY), False, Refused),
        (exceptions.InvalidArgument("Traffic targets sum to 99, want 100"), False, Refused),
        (exceptions.PermissionDenied("run.services.update"), False, exceptions.PermissionDenied),
        (exceptions.ResourceExhausted("60 a minute"), False, exceptions.ResourceExhausted),
    ],
    ids=lambda value: getattr(value, "message", None),
)
def test_write_that_fails_says_whether_to_read_again(
    cloud: Services,
    services: RunServices,
    meets: Exception,
    changed: bool,
    raised: type[Exception],
) -> None:
    seen = services.service(SERVICE)
    cloud.meets, cloud.changed = meets, changed
    with pytest.raises(raised, match=str(meets.args[0])):
        services.write_traffic(seen, {V1: 100}, {}, 7)
    assert cloud.writes == 1


def test_tag_is_seen_where_it_is_written_and_where_it_is_served(
    cloud: Services, services: RunServices
) -> None:
    """A tag that was moved to a revision which failed leads to the old one still."""
    cloud.service.traffic = [
        run_v2.TrafficTarget(revision=V1, percent=100),
        run_v2.TrafficTarget(revision=f"{SERVICE}-00007-xyz", tag="debug"),
        run_v2.TrafficTarget(revision=f"{SERVICE}-00007-xyz", tag="never"),
        run_v2.TrafficTarget(tag="newest"),
    ]
    cloud.service.traffic_statuses = [
        run_v2.TrafficTargetStatus(revision=V1, percent=100),
        run_v2.TrafficTargetStatus(revision=V1, tag="debug", uri="https://debug---x"),
        run_v2.TrafficTargetStatus(tag="newest", uri="https://newest---x"),
    ]
    seen = services.service(SERVICE)
    assert dict(seen.served_tags) == {"debug": V1, "newest": V2}
    assert set(seen.tags) == {"debug", "never", "newest"}
    assert seen.served_tags.keys() == seen.tag_urls.keys()
