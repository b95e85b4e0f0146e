"""What may be cleared away, and what never is, whatever the history."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.deployment import CAN_BE_RETURNED_TO, Deployment, Status
from shared.domain.model import Lock, LockKind, Model, previous
from shared.domain.retention import EVIDENCE_KEPT, Expired, expired, folder_of, own_folder
from tests.unit.stepping import MODEL, NOW, SERVICE, deployment

LONG_AGO = NOW - timedelta(days=30)


def version(number: int, status: Status = Status.INACTIVE, **fields: object) -> Deployment:
    """A version that ended so many hours before now: the higher, the later."""
    ended = NOW - timedelta(days=30) + timedelta(hours=number)
    served = status is Status.ACTIVE or status in CAN_BE_RETURNED_TO
    given_fields: dict[str, object] = {
        "id": f"{MODEL}-{number}-auto",
        "version": number,
        "training_run": number,
        "status": status,
        "token": number,
        "created_at": LONG_AGO,
        "cloud_run_revision": f"{SERVICE}-v{number}-1",
        "deployed_at": ended if served else None,
        "deactivated_at": None if status in (Status.ACTIVE, Status.DEPLOYING) else ended,
    }
    return deployment(**{**given_fields, **fields})


def gone(
    deployments: list[Deployment],
    model: Model | None = None,
    in_use: tuple[str, ...] = (),
    keep_versions: int = 1,
    keep_artifacts: int = 1,
) -> tuple[set[int], set[int]]:
    """Return the versions whose revisions, and whose artifacts, may go."""
    active = next((found.id for found in deployments if found.status is Status.ACTIVE), None)
    model = model or Model(MODEL, active=active)
    found = expired(model, deployments, in_use, keep_versions, keep_artifacts, NOW)
    return numbers(found.revisions), numbers(found.artifacts)


def numbers(ids: frozenset[str]) -> set[int]:
    return {int(one.split("-")[1]) for one in ids}


HISTORY = [*(version(number) for number in range(1, 6)), version(6, Status.ACTIVE)]


@pytest.mark.parametrize(
    ("versions", "artifacts", "expected"),
    [
        pytest.param(1, 1, ({1, 2, 3, 4}, {1, 2, 3, 4}), id="what a rollback goes to stays"),
        pytest.param(3, 5, ({1, 2, 3}, {1}), id="files longer than revisions"),
        pytest.param(4, 1, ({1, 2}, {1, 2}), id="a revision keeps its files"),
        pytest.param(9, 9, (set(), set()), id="fewer than are kept"),
    ],
)
def test_versions_that_served_last_are_kept(
    versions: int, artifacts: int, expected: tuple[set[int], set[int]]
) -> None:
    assert gone(HISTORY, keep_versions=versions, keep_artifacts=artifacts) == expected


def test_version_that_came_back_counts_as_the_one_that_served_last() -> None:
    back = [version(1, deactivated_at=NOW), *HISTORY[1:]]
    assert gone(back, keep_versions=2)[0] == {2, 3, 4, 5}


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
@pytest.mark.parametrize(
    ("age", "expected"), [(EVIDENCE_KEPT, {7}), (EVIDENCE_KEPT - timedelta(seconds=1), set())]
)
def test_what_never_served_is_kept_for_a_day(
    status: Status, age: timedelta, expected: set[int]
) -> None:
    ended = version(7, status, deactivated_at=NOW - age)
    assert gone([*HISTORY, ended], keep_versions=9, keep_artifacts=9) == (expected, expected)


@pytest.mark.parametrize(
    ("model", "in_use"),
    [
        pytest.param(Model(MODEL, active=HISTORY[5].id), (f"{SERVICE}-v1-1",), id="in the service"),
        pytest.param(
            Model(MODEL, active=HISTORY[5].id, desired={f"{SERVICE}-v1-1": 100}), (), id="desired"
        ),
        pytest.param(
            Model(MODEL, active=HISTORY[5].id, lock=Lock(LockKind.ABORT, HISTORY[0].id, 9, NOW)),
            (),
            id="in the lock",
        ),
    ],
)
def test_what_is_in_use_stays(model: Model, in_use: tuple[str, ...]) -> None:
    assert gone(HISTORY, model, in_use)[0] == {2, 3, 4}


def test_snapshot_of_a_rollout_stays() -> None:
    rolling = version(7, Status.DEPLOYING, snapshot={f"{SERVICE}-v1-1": 40, f"{SERVICE}-v6-1": 60})
    assert gone([*HISTORY, rolling])[0] == {2, 3, 4}


@pytest.mark.parametrize("status", [Status.DEPLOYING, Status.ACTIVE, Status.INACTIVE])
def test_artifacts_stay_while_a_version_that_is_kept_points_at_them(status: Status) -> None:
    copy = version(7, status, redeploys=2)
    history = [*HISTORY[:5], replace(HISTORY[5], status=Status.ROLLED_BACK), copy]
    revisions, artifacts = gone(history, keep_versions=2)
    assert 2 in revisions
    assert 2 not in artifacts
    old = [*HISTORY, replace(copy, status=Status.FAILED, deployed_at=None, deactivated_at=LONG_AGO)]
    assert 2 in gone(old)[1]


@st.composite
def histories(draw: st.DrawFn) -> tuple[Model, list[Deployment], set[str], int, int]:
    """Any history in which at most one version is active, and at most one rolls out."""
    count = draw(st.integers(1, 9))
    ended = st.sampled_from([Status.INACTIVE, Status.ROLLED_BACK, Status.FAILED, Status.CANCELLED])
    made: list[Deployment] = []
    for number in range(1, count + 1):
        redeploys = draw(st.none() | st.integers(1, number - 1)) if number > 1 else None
        at = NOW - timedelta(hours=draw(st.integers(0, 72)))
        found = version(number, draw(ended), redeploys=redeploys)
        served = at if found.deployed_at else None
        made.append(replace(found, deactivated_at=at, deployed_at=served))
    revisions = [found.cloud_run_revision for found in made]
    active = draw(st.none() | st.integers(0, count - 1))
    rolling = draw(st.none() | st.integers(0, count - 1).filter(lambda one: one != active))
    if active is not None:
        made[active] = version(active + 1, Status.ACTIVE, redeploys=made[active].redeploys)
    if rolling is not None:
        snapshot = dict.fromkeys(draw(st.lists(st.sampled_from(revisions), max_size=2)), 50)
        made[rolling] = version(rolling + 1, Status.DEPLOYING, snapshot=snapshot)
    held = draw(st.none() | st.sampled_from(made))
    desired = dict.fromkeys(draw(st.lists(st.sampled_from(revisions), max_size=2)), 50)
    model = Model(
        MODEL,
        active=made[active].id if active is not None else None,
        lock=Lock(LockKind.ABORT, held.id, 9, NOW) if held else None,
        desired=desired,
    )
    in_use = set(draw(st.lists(st.sampled_from(["", *revisions]), max_size=3)))
    return model, made, in_use, draw(st.integers(1, 5)), draw(st.integers(1, 5))


@given(histories())
def test_nothing_that_is_needed_ever_goes(
    history: tuple[Model, list[Deployment], set[str], int, int],
) -> None:
    model, made, in_use, versions, artifacts = history
    found: Expired = expired(model, made, in_use, versions, artifacts, NOW)
    by_id = {one.id: one for one in made}
    back = previous(by_id.get(model.active or ""), made)
    held = model.lock.deployment_id if model.lock else None
    snapshots = {
        name
        for one in made
        if one.status is Status.DEPLOYING or one.id == held
        for name in one.snapshot
    }
    for one in made:
        used = one.cloud_run_revision in {*in_use, *model.desired, *snapshots}
        young = not one.deployed_at and (one.deactivated_at or NOW) > NOW - EVIDENCE_KEPT
        if (
            used
            or young
            or one.id in (model.active, back.id if back else None, held)
            or one.status in (Status.ACTIVE, Status.DEPLOYING)
        ):
            assert one.id not in found.revisions | found.artifacts
        # What stays startable, or deployable anew, finds its files.
        if one.id not in found.revisions:
            assert folder_of(one) not in {own_folder(by_id[gone]) for gone in found.artifacts}
    served = [one for one in made if one.deployed_at]
    assert len([one for one in served if one.id not in found.revisions]) >= min(
        versions, len(served)
    )
    files = {own_folder(by_id[gone]) for gone in found.artifacts}
    assert len([one for one in served if folder_of(one) not in files]) >= min(
        artifacts, len(served)
    )
