"""The moves of a model's book: lock, token, wanted traffic, and what each leaves recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from shared.domain.deployment import Deployment, Status
from shared.domain.model import (
    Lock,
    LockKind,
    Model,
    abort,
    approve,
    claim,
    enter,
    finish,
    pause,
    release,
    resume,
    roll_back,
    shift,
)
from shared.errors import Conflict, NothingToRollBackTo, Superseded
from tests.fakes import FakeState
from tests.unit.stepping import MODEL, NOW, V0, V1, V2, V3, deployment

T = TypeVar("T")
LATER = NOW + timedelta(hours=1)


class Books:
    """The documents of one model, moved one transaction at a time."""

    def __init__(self) -> None:
        self.state = FakeState()

    def do(self, move: Callable[..., T], *arguments: Any) -> T:
        return self.state.change(MODEL, lambda book: move(book, *arguments))

    @property
    def model(self) -> Model:
        return self.state.model(MODEL)

    def get(self, run: int) -> Deployment:
        return self.state.deployment(f"{MODEL}-{run}-auto")

    def enter(self, run: int) -> Deployment:
        return self.do(enter, wanted(run), "better")

    def claim(self, run: int, split: dict[str, int] | None = None) -> bool:
        split = split or dict(self.model.desired) or {V0: 100}
        return self.do(claim, f"{MODEL}-{run}-auto", f"executions/{run}", split, NOW)

    def make_healthy(self, run: int) -> None:
        found = self.get(run)
        revision = f"model-serving-movies-v{found.version}-1"
        checked = replace(found, healthy=True, cloud_run_revision=revision)
        self.do(lambda book: book.put(checked))

    def shift(self, run: int, percent: int) -> Deployment:
        return self.do(shift, f"{MODEL}-{run}-auto", percent, NOW)

    def roll_out(self, run: int) -> None:
        """Bring a run to active."""
        self.enter(run)
        self.claim(run)
        self.make_healthy(run)
        self.shift(run, 100)
        self.do(finish, f"{MODEL}-{run}-auto", NOW)

    def abort(self, run: int, after: Status = Status.FAILED) -> bool:
        return self.do(abort, f"{MODEL}-{run}-auto", after, LATER, "pipeline", "too slow")

    def roll_back(self, run: int | None) -> Deployment:
        target = f"{MODEL}-{run}-auto" if run else None
        return self.do(roll_back, target, LATER, "ops", "bad answers")

    def actions(self, run: int) -> list[str]:
        return [event.action for event in self.state.events(f"{MODEL}-{run}-auto")]


@pytest.fixture
def books() -> Books:
    return Books()


def wanted(run: int, **fields: Any) -> Deployment:
    return deployment(id=f"{MODEL}-{run}-auto", training_run=run, version=0, **fields)


# enter


def test_first_run_takes_version_token_and_lock(books: Books) -> None:
    made = books.enter(1)
    assert (made.version, made.token, made.status) == (1, 1, Status.DEPLOYING)
    assert books.model.lock == Lock(LockKind.ROLLOUT, made.id, 1, NOW)
    assert books.actions(1) == ["requested"]


def test_same_request_again_changes_nothing(books: Books) -> None:
    made = books.enter(1)
    before = books.model
    assert books.enter(1) == made
    assert books.model == before
    assert books.actions(1) == ["requested"]


def test_newer_run_waits_without_a_token(books: Books) -> None:
    books.enter(1)
    waits = books.enter(2)
    assert (waits.version, waits.token, waits.waiting) == (2, None, True)
    assert books.model.waiting == waits.id
    assert books.model.token == 1


@pytest.mark.parametrize(("first", "second"), [(2, 3), (3, 2)])
def test_of_several_that_wait_the_newest_run_stays(books: Books, first: int, second: int) -> None:
    books.enter(1)
    books.enter(first)
    books.enter(second)
    assert books.model.waiting == f"{MODEL}-3-auto"
    assert books.get(3).waiting
    passed = books.get(2)
    assert passed.status is Status.CANCELLED
    assert "run 3 is newer" in passed.reason


def test_versions_never_repeat_whatever_became_of_the_runs(books: Books) -> None:
    for run in (1, 3, 2, 4):
        books.enter(run)
    assert [books.get(run).version for run in (1, 3, 2, 4)] == [1, 2, 3, 4]


# claim


def test_one_execution_gets_the_deployment_with_the_traffic_of_that_moment(books: Books) -> None:
    books.enter(1)
    assert books.claim(1, {V0: 100})
    assert books.get(1).execution == "executions/1"
    assert books.get(1).snapshot == {V0: 100}
    assert books.model.desired == {V0: 100}


def test_same_execution_again_keeps_the_first_snapshot(books: Books) -> None:
    books.enter(1)
    books.claim(1, {V0: 100})
    assert books.claim(1, {V2: 100})
    assert books.get(1).snapshot == {V0: 100}


def test_second_execution_is_told_that_it_is_too_late(books: Books) -> None:
    books.enter(1)
    books.claim(1)
    assert not books.do(claim, f"{MODEL}-1-auto", "executions/other", {V0: 100}, NOW)
    assert books.get(1).execution == "executions/1"


def test_ended_deployment_is_claimed_by_nobody(books: Books) -> None:
    books.enter(1)
    books.abort(1)
    assert not books.claim(1, {V0: 100})


def test_waiting_deployment_cannot_be_claimed(books: Books) -> None:
    books.enter(1)
    books.enter(2)
    with pytest.raises(Superseded):
        books.claim(2)


def test_split_that_is_not_100_percent_is_not_taken_for_a_snapshot(books: Books) -> None:
    books.enter(1)
    with pytest.raises(ValueError, match="sum to 100"):
        books.claim(1, {V0: 90})
    assert books.get(1).execution == ""


def test_drift_is_recorded_and_becomes_what_an_abort_restores(books: Books) -> None:
    books.roll_out(1)
    books.enter(2)
    books.claim(2, {V0: 30, V1: 70})
    assert books.get(2).snapshot == {V0: 30, V1: 70}
    assert "drift found" in books.actions(2)


# shift


def test_candidate_takes_its_share_from_the_snapshot(books: Books) -> None:
    books.roll_out(1)
    books.enter(2)
    books.claim(2)
    books.make_healthy(2)
    assert books.shift(2, 10).traffic_percent == 10
    assert books.model.desired == {V1: 90, V2: 10}
    books.shift(2, 50)
    assert books.model.desired == {V1: 50, V2: 50}


@pytest.mark.parametrize("percent", [50, 10])
def test_repeated_or_late_shift_never_takes_traffic_back(books: Books, percent: int) -> None:
    books.roll_out(1)
    books.enter(2)
    books.claim(2)
    books.make_healthy(2)
    reached = books.shift(2, 50)
    assert books.shift(2, percent) == reached
    assert books.model.desired == {V1: 50, V2: 50}
    assert books.actions(2).count("traffic wanted") == 1


def test_candidate_that_passed_no_health_check_gets_nothing(books: Books) -> None:
    books.enter(1)
    books.claim(1)
    with pytest.raises(Conflict, match="health check"):
        books.shift(1, 10)
    assert books.model.desired == {V0: 100}


# what an overtaken rollout may still do: nothing


@pytest.mark.parametrize(
    "overtake",
    [
        pytest.param(lambda books: books.abort(2), id="abort"),
        pytest.param(lambda books: books.abort(2, Status.CANCELLED), id="cancel"),
        pytest.param(lambda books: books.roll_back(1), id="rollback"),
    ],
)
@pytest.mark.parametrize(
    "late",
    [
        pytest.param(lambda books: books.shift(2, 100), id="shift"),
        pytest.param(lambda books: books.do(finish, f"{MODEL}-2-auto", LATER), id="finish"),
        pytest.param(
            lambda books: books.do(pause, f"{MODEL}-2-auto", LATER, "ops", "wait"), id="pause"
        ),
    ],
)
def test_overtaken_rollout_is_refused(
    books: Books, overtake: Callable[[Books], object], late: Callable[[Books], object]
) -> None:
    books.roll_out(1)
    books.enter(2)
    books.claim(2)
    books.make_healthy(2)
    books.shift(2, 50)
    overtake(books)
    before = books.model, books.get(2)
    with pytest.raises(Superseded):
        late(books)
    assert (books.model, books.get(2)) == before


# finish


def test_finish_makes_it_active_and_the_one_before_inactive(books: Books) -> None:
    books.roll_out(1)
    books.roll_out(2)
    assert books.get(1).status is Status.INACTIVE
    assert books.get(2).status is Status.ACTIVE
    assert (books.model.active, books.model.lock) == (f"{MODEL}-2-auto", None)
    assert books.actions(1)[-1] == "inactive"


def test_finish_before_all_of_the_traffic_is_wanted_is_refused(books: Books) -> None:
    books.roll_out(1)
    books.enter(2)
    books.claim(2)
    books.make_healthy(2)
    books.shift(2, 50)
    with pytest.raises(Conflict, match="all of the traffic"):
        books.do(finish, f"{MODEL}-2-auto", NOW)


def test_finish_hands_the_lock_to_the_run_that_waits_and_a_repeat_names_it_again(
    books: Books,
) -> None:
    books.enter(1)
    books.enter(2)
    books.claim(1)
    books.make_healthy(1)
    books.shift(1, 100)
    for _ in range(2):
        next_up = books.do(finish, f"{MODEL}-1-auto", LATER)
        assert next_up == books.get(2)
    assert books.get(2).token == 2
    assert books.model.lock == Lock(LockKind.ROLLOUT, f"{MODEL}-2-auto", 2, LATER)
    assert books.model.waiting is None


# abort


def test_abort_wants_the_snapshot_back_under_a_new_token_and_keeps_the_lock(books: Books) -> None:
    books.roll_out(1)
    books.enter(2)
    books.claim(2)
    books.make_healthy(2)
    books.shift(2, 50)
    token = books.model.token
    assert books.abort(2)
    assert books.get(2).status is Status.FAILED
    assert books.get(2).reason == "too slow"
    assert books.model.desired == {V1: 100}
    assert books.model.lock == Lock(LockKind.ABORT, f"{MODEL}-2-auto", token + 1, LATER)
    assert books.model.active == f"{MODEL}-1-auto"


def test_abort_of_what_has_ended_changes_nothing(books: Books) -> None:
    books.roll_out(1)
    before = books.model
    assert not books.abort(1)
    assert books.model == before
    assert books.get(1).status is Status.ACTIVE


def test_abort_of_the_waiting_run_leaves_the_running_one_alone(books: Books) -> None:
    books.enter(1)
    books.enter(2)
    assert books.abort(2, Status.CANCELLED)
    assert books.model.waiting is None
    assert books.model.lock == Lock(LockKind.ROLLOUT, f"{MODEL}-1-auto", 1, NOW)
    books.claim(1)


def test_release_after_an_abort_gives_the_waiting_run_its_turn(books: Books) -> None:
    books.enter(1)
    books.enter(2)
    books.claim(1)
    books.abort(1)
    next_up = books.do(release, LATER)
    assert next_up
    assert next_up.id == f"{MODEL}-2-auto"
    assert books.model.token == next_up.token == 3


def test_release_with_nobody_waiting_frees_the_lock(books: Books) -> None:
    books.enter(1)
    books.abort(1)
    assert books.do(release, LATER) is None
    assert books.model.lock is None


# rollback


def test_rollback_wants_all_traffic_on_the_target_under_a_new_token(books: Books) -> None:
    books.roll_out(1)
    books.roll_out(2)
    token = books.model.token
    back = books.roll_back(1)
    assert back.status is Status.ACTIVE
    assert books.get(2).status is Status.ROLLED_BACK
    assert books.model.desired == {V1: 100}
    assert books.model.active == f"{MODEL}-1-auto"
    assert books.model.lock == Lock(LockKind.ROLLBACK, f"{MODEL}-1-auto", token + 1, LATER)


def test_rollback_cancels_what_runs_and_what_waits(books: Books) -> None:
    books.roll_out(1)
    books.enter(2)
    books.enter(3)
    books.roll_back(1)
    for run in (2, 3):
        assert books.get(run).status is Status.CANCELLED
        assert "bad answers" in books.get(run).reason
    assert books.model.waiting is None


def test_rollback_repeated_takes_another_token_and_moves_no_status(books: Books) -> None:
    books.roll_out(1)
    books.roll_out(2)
    books.roll_back(1)
    before = books.model, books.get(1), books.get(2)
    books.roll_back(1)
    model, *deployments = before
    assert books.model.token == model.token + 1
    assert (books.model.desired, books.model.active) == (model.desired, model.active)
    assert [books.get(1), books.get(2)] == deployments


def test_rollback_to_a_version_that_was_rolled_back_from_is_possible_by_name(
    books: Books,
) -> None:
    books.roll_out(1)
    books.roll_out(2)
    books.roll_back(1)
    books.do(release, LATER)
    assert books.roll_back(2).status is Status.ACTIVE
    assert books.get(1).status is Status.ROLLED_BACK


@pytest.mark.parametrize("after", [Status.FAILED, Status.CANCELLED])
def test_rollback_to_a_version_that_never_served_is_refused(books: Books, after: Status) -> None:
    books.roll_out(1)
    books.enter(2)
    books.abort(2, after)
    books.do(release, LATER)
    before = books.model
    with pytest.raises(Conflict, match=f"v2 is {after}"):
        books.roll_back(2)
    assert books.model == before


def test_rollback_without_a_target_is_refused(books: Books) -> None:
    with pytest.raises(NothingToRollBackTo, match="publish another"):
        books.roll_back(None)


def test_rollback_takes_over_from_an_abort(books: Books) -> None:
    books.roll_out(1)
    books.roll_out(2)
    books.enter(3)
    books.claim(3)
    books.abort(3)
    books.roll_back(1)
    assert books.model.desired == {V1: 100}
    assert books.model.lock
    assert books.model.lock.kind is LockKind.ROLLBACK
    assert V3 not in books.model.desired


# a person's word on a stage


def test_word_is_kept_until_the_next_stage_and_a_repeat_is_recorded_once(books: Books) -> None:
    books.enter(1)
    books.claim(1)
    books.make_healthy(1)
    books.shift(1, 10)
    name = f"{MODEL}-1-auto"
    for _ in range(2):
        assert books.do(pause, name, NOW, "ops", "look first").paused
    assert not books.do(resume, name, NOW, "ops", "fine").paused
    for _ in range(2):
        assert books.do(approve, name, NOW, "ops", "go", "", 10).approved
    assert books.actions(1)[-3:] == ["paused", "resumed", "approved"]
    assert not books.shift(1, 50).approved


def test_approval_of_a_share_that_is_past_is_no_word_on_the_next(books: Books) -> None:
    books.enter(1)
    books.claim(1)
    books.make_healthy(1)
    books.shift(1, 10)
    name = f"{MODEL}-1-auto"
    books.do(approve, name, NOW, "anna", "go", "", 10)
    books.shift(1, 50)
    with pytest.raises(Conflict, match="is at 50 % by now, not at 10 %"):
        books.do(approve, name, NOW, "bert", "go", "", 10)
    assert not books.get(1).approved
    assert books.do(approve, name, NOW, "bert", "go", "", 50).approved


def test_approval_without_a_share_means_a_stage_that_waits_for_a_person(books: Books) -> None:
    books.enter(1)
    books.claim(1)
    books.make_healthy(1)
    baking = books.shift(1, 10)
    with pytest.raises(Conflict, match=r"waits for nobody.*--at 10"):
        books.do(approve, baking.id, NOW, "ops", "go")
    assert not books.get(1).approved
    books.do(lambda book: book.put(replace(baking, holding_since=NOW)))
    assert books.do(approve, baking.id, NOW, "ops", "go").approved


def test_stage_that_has_not_begun_cannot_be_approved(books: Books) -> None:
    books.enter(1)
    books.claim(1)
    with pytest.raises(Conflict, match="no stage to approve"):
        books.do(approve, f"{MODEL}-1-auto", NOW, "ops", "go")
