"""What users saw, read from a trace, and when a version that was left answered last."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.endings import Ending, NotReached
from benchmarks.rollback import quantile
from benchmarks.users import Answer, Seen, read

LINES = "10.0 v1 200 1\n10.5 v2 200 1\n11.0 - 500 0\n11.5 v2 200 0\n12.0 v1 200 1\n12.5 v"


def _seen(folder: Path) -> Seen:
    trace = folder / "trace"
    trace.write_text(LINES)
    return Seen(tuple(read(trace)), 2, "500: broken", {})


def test_a_trace_ends_with_its_last_whole_line(tmp_path: Path) -> None:
    answers = _seen(tmp_path).answers
    assert len(answers) == 5
    assert answers[0] == Answer(10.0, "v1", 200, True)
    assert answers[2] == Answer(11.0, "", 500, False)


def test_broken_connections_and_wrong_answers_are_failed_requests(tmp_path: Path) -> None:
    seen = _seen(tmp_path)
    assert (seen.requests, seen.failed) == (7, 4)
    assert seen.versions() == {"v1": 2, "v2": 2}


def test_the_last_answer_is_told_from_the_request_and_from_its_answer(tmp_path: Path) -> None:
    end = Ending("rollback", "v2", "v1", asked_at=11.2, answered_at=11.6)
    assert end.last_answer_after_s(_seen(tmp_path)) == pytest.approx((0.3, -0.1))


def test_a_version_that_never_answered_was_not_left(tmp_path: Path) -> None:
    with pytest.raises(NotReached, match="v9"):
        Ending("rollback", "v9", "v1").last_answer_after_s(_seen(tmp_path))


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, 0.0),
        ([3.0], 0.99, 3.0),
        ([1.0, 2.0], 0.5, 1.0),
        ([float(number) for number in range(1, 101)], 0.99, 99.0),
        ([float(number) for number in range(100, 0, -1)], 0.5, 50.0),
    ],
    ids=["none", "one", "two", "p99", "p50"],
)
def test_quantiles_are_values_that_were_seen(
    values: list[float], share: float, expected: float
) -> None:
    assert quantile(values, share) == expected
