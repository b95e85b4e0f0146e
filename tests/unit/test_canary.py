"""What the judge says of a stage: fail first, never a pass without data, the rest by evidence."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.canary import (
    Block,
    Judgement,
    Side,
    Verdict,
    combine,
    judge,
    sides,
    window,
)
from shared.domain.histogram import Histogram
from shared.domain.policy import CanaryPolicy

POLICY = CanaryPolicy()
BOUNDS = tuple(1.4**index for index in range(30))
BEGAN = datetime(2026, 11, 24, 12, 0, 17, 250_000, tzinfo=UTC)


def latencies(*counts_by_bucket: tuple[int, int]) -> Histogram:
    """Return so many values in each of some buckets (bucket, count)."""
    counts = [0] * 31
    for bucket, count in counts_by_bucket:
        counts[bucket] += count
    return Histogram(sum(counts), 1.0, BOUNDS, tuple(counts))


def side(requests: int, errors: int = 0, slow: int = 0, far: int = 10) -> Side:
    """Return a side whose requests take some 5 ms, `slow` of them as long as bucket `far`."""
    return Side(requests, errors, latencies((5, requests - slow), (far, slow)))


def stage(candidate: Side, live: Side, minutes: int = 10) -> list[Block]:
    return [Block(candidate, live)] * minutes


BEFORE = side(50_000, 50, 500)
LIVE = side(2700, 3, 27)


@pytest.mark.parametrize(
    ("candidate", "live", "policy", "verdict", "word"),
    [
        pytest.param(side(300, 0, 3), LIVE, {}, "pass", "0.00% errors", id="equal"),
        pytest.param(side(300, 9, 3), LIVE, {}, "fail", "3.00% of", id="more errors"),
        pytest.param(side(300, 300), LIVE, {}, "fail", "the limit is 5.0%", id="only errors"),
        pytest.param(side(5, 5), LIVE, {}, "fail", "the limit", id="few requests, all fail"),
        pytest.param(side(300, 0, 300), LIVE, {}, "fail", "p95", id="all slow"),
        pytest.param(side(300, 0, 210), LIVE, {}, "fail", "p95", id="70 % are slow"),
        pytest.param(side(300, 0, 60, 14), LIVE, {}, "fail", "p95", id="the slowest fifth slower"),
        pytest.param(side(300, 0, 6, 20), LIVE, {}, "pass", "", id="only the slowest 2 % slower"),
        pytest.param(side(300, 0, 0), side(2700, 0, 1350), {}, "pass", "", id="faster than live"),
        pytest.param(
            side(300, 30, 3), side(2700, 270, 27), {"max_error_rate": 0.2}, "pass", "",
            id="both fail alike",
        ),
        pytest.param(side(300, 30), side(2700, 270), {}, "fail", "limit", id="both fail too often"),
        pytest.param(
            side(300, 1, 3), LIVE, {"error_rate_increase": 0.02}, "pass", "",
            id="worse by less than matters",
        ),
        pytest.param(
            side(300, 0, 300), side(2700, 0, 2700), {"max_p95_ms": 10}, "fail", "the limit is 10",
            id="both slower than the limit",
        ),
        pytest.param(Side(), LIVE, {}, "inconclusive", "nothing", id="nothing of the candidate"),
        pytest.param(Side(), Side(), {}, "inconclusive", "nothing", id="nothing at all"),
        pytest.param(side(19), LIVE, {}, "inconclusive", "200 are needed", id="too few requests"),
        pytest.param(
            side(300), side(1), {}, "inconclusive", "live version had 10", id="too few at live"
        ),
        pytest.param(
            Side(300), LIVE, {}, "inconclusive", "latencies", id="no latencies of the candidate"
        ),
        pytest.param(
            side(300), Side(2700), {}, "inconclusive", "latencies", id="no latencies of live"
        ),
        pytest.param(
            Side(300, 0, latencies((5, 100))), LIVE, {}, "inconclusive", "100",
            id="few latencies yet",
        ),
        pytest.param(
            side(19, 19), Side(), {}, "fail", "190 of 190", id="fail is not hidden by too little"
        ),
    ],
)  # fmt: skip
def test_verdict(
    candidate: Side, live: Side, policy: dict[str, Any], verdict: str, word: str
) -> None:
    found = judge(stage(candidate, live), BEFORE, True, replace(POLICY, **policy))

    assert found.verdict == verdict, found
    assert word in found.why


def test_worse_by_what_may_be_chance_is_inconclusive_and_never_a_pass() -> None:
    few = [Block(side(250, 2), side(2500, 2))]
    found = judge(few, side(3000, 3), True, POLICY)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "may be chance" in found.why
    assert "0.80%" in found.why


@pytest.mark.parametrize("broken", [side(300, 90), side(300, 0, 300)], ids=["errors", "latency"])
def test_one_bad_minute_alone_is_not_enough_to_fail(broken: Side) -> None:
    quiet = [Block(side(300), LIVE)] * 5
    bad = Block(broken, LIVE)
    once = judge([*quiet, bad], BEFORE, True, POLICY)
    again = judge([*quiet, bad, bad, bad], BEFORE, True, POLICY)
    assert once.verdict is not Verdict.FAIL
    assert again.verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("candidate", "verdict"),
    [(side(300), "pass"), (side(300, 30), "fail"), (side(3), "inconclusive")],
)
def test_first_deployment_is_judged_by_the_limits_alone(candidate: Side, verdict: str) -> None:
    assert judge(stage(candidate, Side()), Side(), False, POLICY).verdict == verdict


@pytest.mark.parametrize("live_before", [Side(), side(3)], ids=["nothing", "a handful"])
def test_first_blocks_of_the_live_side_stand_in_for_what_was_not_measured_before(
    live_before: Side,
) -> None:
    slow = stage(side(300, 0, 300), LIVE)
    late = [Block(side(300, 0, 300), Side())] * 3 + slow
    assert judge(slow, live_before, True, POLICY).verdict is Verdict.FAIL
    assert judge(late, live_before, True, POLICY).verdict is Verdict.FAIL
    assert judge(slow[:1], live_before, True, POLICY).verdict is Verdict.INCONCLUSIVE


@st.composite
def some_sides(draw: st.DrawFn) -> Side:
    requests = draw(st.integers(0, 400))
    timed = draw(st.booleans())
    found = side(requests, draw(st.integers(0, requests)), draw(st.integers(0, requests)))
    return found if timed and requests else replace(found, latencies=None)


BLOCKS = st.lists(st.builds(Block, some_sides(), some_sides()), max_size=6)
SEVERITY = [Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL]


@given(BLOCKS, some_sides(), st.booleans())
def test_pass_has_enough_requests_and_latencies_of_both_sides(
    blocks: list[Block], before: Side, has_live: bool
) -> None:
    found = judge(blocks, before, has_live, POLICY)
    assert found.why
    if found.verdict is Verdict.PASS:
        for name in ("candidate", "live") if has_live else ("candidate",):
            assert found.numbers[f"{name}_requests"] >= POLICY.minimum_requests
            assert f"{name}_p95_ms" in found.numbers


@given(BLOCKS, some_sides(), st.booleans(), st.data())
def test_another_error_of_the_candidate_is_never_good_for_it(
    blocks: list[Block], before: Side, has_live: bool, data: st.DataObject
) -> None:
    able = [i for i, one in enumerate(blocks) if one.candidate.errors < one.candidate.requests]
    if not able:
        return
    index = data.draw(st.sampled_from(able))
    block = blocks[index]
    more = replace(block.candidate, errors=block.candidate.errors + 1)
    worse = [*blocks[:index], Block(more, block.live), *blocks[index + 1 :]]
    was, now = (judge(each, before, has_live, POLICY).verdict for each in (blocks, worse))
    assert SEVERITY.index(now) >= SEVERITY.index(was)


@given(BLOCKS, some_sides(), st.data())
def test_slower_candidate_is_never_judged_better(
    blocks: list[Block], before: Side, data: st.DataObject
) -> None:
    able = [i for i, one in enumerate(blocks) if one.candidate.latencies]
    if not able:
        return
    index = data.draw(st.sampled_from(able))
    block = blocks[index]
    count = block.candidate.requests
    slowest = replace(block.candidate, latencies=latencies((20, count)))
    worse = [*blocks[:index], Block(slowest, block.live), *blocks[index + 1 :]]
    was, now = (judge(each, before, True, POLICY).verdict for each in (blocks, worse))
    assert SEVERITY.index(now) >= SEVERITY.index(was)


@given(st.lists(st.sampled_from(list(Verdict)), min_size=1, max_size=5))
def test_worst_of_several_judgements_decides_and_keeps_its_reason(said: list[Verdict]) -> None:
    found = combine([Judgement(verdict, f"{i}") for i, verdict in enumerate(said)])
    assert found.verdict is max(said, key=SEVERITY.index)
    assert found.why == f"{said.index(found.verdict)}"


# which measurements


@pytest.mark.parametrize(
    ("seconds", "visible"),
    [(0, 0), (359.9, 0), (360, 1), (419, 1), (420, 2), (3600, 55)],
)
def test_blocks_are_seen_once_warm_up_and_lag_are_over(seconds: float, visible: int) -> None:
    found = window(BEGAN, BEGAN + timedelta(seconds=seconds), 3600, POLICY)
    assert found.visible == visible
    assert found.block_s == 60


@given(st.integers(0, 90), st.integers(0, 200), st.integers(1, 60 * 24 * 3600))
def test_blocks_of_a_stage_stay_where_they_are_as_time_goes_on(
    warm_up_s: int, minutes: int, longest_s: int
) -> None:
    policy = replace(POLICY, warm_up_s=warm_up_s)
    early, late = (
        window(BEGAN, BEGAN + timedelta(minutes=m), longest_s, policy) for m in (minutes, 999)
    )
    assert (early.begin, early.block_s, early.before, early.warming) == (
        late.begin,
        late.block_s,
        late.before,
        late.warming,
    )
    first = early.begin + timedelta(seconds=(early.before + early.warming) * early.block_s)
    assert first == BEGAN + timedelta(seconds=warm_up_s)
    ends_before = early.begin + timedelta(seconds=early.before * early.block_s)
    assert ends_before <= BEGAN
    assert longest_s / early.block_s <= 1800


def test_sides_are_cut_out_of_what_was_measured() -> None:
    policy = replace(POLICY, warm_up_s=90, metrics_lag_s=0)
    found = window(BEGAN, BEGAN + timedelta(seconds=90 + 180), 3600, policy)
    assert (found.before, found.warming, found.visible) == (60, 2, 3)
    numbered = [Side(requests=index) for index in range(found.blocks)]
    ones = [Side(requests=1)] * found.blocks

    blocks, before = sides({"new": numbered, "old": ones}, found, "new", ["old", "older", "gone"])

    assert [block.candidate.requests for block in blocks] == [62, 63, 64]
    assert [block.live.requests for block in blocks] == [1, 1, 1]
    assert before.requests == 60
    assert sides({}, found, "new", ["old"]) == ([Block(Side(), Side())] * 3, Side())
