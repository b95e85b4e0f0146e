"""Evidence that may be looked at after every block: honest while nothing is wrong, then soon."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.sequential import Pair, Tally, above_limit, worse_than_live

RATES = st.sampled_from([0.0, 0.001, 0.02, 0.3, 0.9, 1.0])
LIMITS = st.sampled_from([0.001, 0.05, 0.5])
CAPS = st.sampled_from([1.5, 20.0, math.inf])


def expected(candidate: int, live: int, rates: tuple[float, float], *given_: object) -> float:
    """The mean of one block's evidence, over all outcomes of so many requests."""
    total = 0.0
    for bad, other in itertools.product(range(candidate + 1), range(live + 1)):
        chance = _binomial(candidate, bad, rates[0]) * _binomial(live, other, rates[1])
        pair = Pair(Tally(candidate, bad), Tally(live, other))
        total += chance * worse_than_live([pair], *given_)  # type: ignore[arg-type]
    return total


def _binomial(number: int, hits: int, rate: float) -> float:
    return math.comb(number, hits) * rate**hits * (1 - rate) ** (number - hits)


@given(
    st.integers(0, 6),
    st.integers(0, 6),
    RATES,
    st.floats(0, 1),
    st.sampled_from([0.001, 0.005, 0.1, 1.0]),
    st.tuples(st.integers(0, 500), st.floats(0, 1)),
    CAPS,
)
def test_evidence_is_never_expected_where_the_candidate_is_no_worse(
    candidate: int,
    live: int,
    rate: float,
    better: float,
    matters: float,
    known: tuple[int, float],
    at_most: float,
) -> None:
    """Ville's inequality needs exactly this of every block, whatever was known before it."""
    before = Tally(known[0], int(known[0] * known[1]))
    mean = expected(candidate, live, (rate * better, rate), matters, before, at_most)
    assert mean <= 1 + 1e-9


@given(st.integers(0, 40), LIMITS, st.floats(0, 1))
def test_evidence_against_a_limit_is_never_expected_below_it(
    requests: int, limit: float, below: float
) -> None:
    mean = sum(
        _binomial(requests, bad, limit * below) * above_limit([Tally(requests, bad)], limit)
        for bad in range(requests + 1)
    )
    assert mean <= 1 + 1e-9


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    candidate, live = draw(st.integers(0, 300)), draw(st.integers(0, 300))
    return Pair(
        Tally(candidate, draw(st.integers(0, candidate))), Tally(live, draw(st.integers(0, live)))
    )


@given(st.lists(pairs(), min_size=1, max_size=5), st.data(), CAPS)
def test_another_error_of_the_candidate_never_weakens_the_evidence(
    blocks: list[Pair], data: st.DataObject, at_most: float
) -> None:
    index = data.draw(st.integers(0, len(blocks) - 1))
    block = blocks[index]
    if block.candidate.bad == block.candidate.requests:
        return
    more = Tally(block.candidate.requests, block.candidate.bad + 1)
    worse = [*blocks[:index], Pair(more, block.live), *blocks[index + 1 :]]
    found = [worse_than_live(each, 0.005, Tally(0, 0), at_most) for each in (blocks, worse)]
    assert found[0] <= found[1] * (1 + 1e-9)
    limits = [above_limit([one.candidate for one in each], 0.05) for each in (blocks, worse)]
    assert limits[0] <= limits[1] * (1 + 1e-9)


@given(st.lists(pairs(), max_size=5), CAPS)
def test_evidence_is_a_finite_positive_number(blocks: list[Pair], at_most: float) -> None:
    found = worse_than_live(blocks, 0.005, Tally(0, 0), at_most)
    assert math.isfinite(found)
    assert found >= 0
    assert math.isfinite(above_limit([one.candidate for one in blocks], 0.01))


@pytest.mark.parametrize("silent", ["candidate", "live", "both"])
def test_block_without_requests_on_a_side_tells_nothing(silent: str) -> None:
    some, none = Tally(50, 25), Tally(0, 0)
    pair = Pair(
        none if silent in ("candidate", "both") else some,
        none if silent in ("live", "both") else some,
    )
    assert worse_than_live([pair] * 9, 0.005, Tally(100, 0)) == pytest.approx(1)


@pytest.mark.parametrize("bad", [100, 5000], ids=["one of a hundred", "all"])
def test_one_block_never_shows_more_than_it_may(bad: int) -> None:
    block = Pair(Tally(5000, bad), Tally(5000, 0))
    assert worse_than_live([block], 0.005, Tally(5000, 0), 200) <= 200
    assert worse_than_live([block] * 2, 0.005, Tally(5000, 0), 200) > 200


@pytest.mark.parametrize("rate", [0.0005, 0.02], ids=["rare errors", "frequent errors"])
def test_false_alarms_stay_below_what_is_allowed_at_any_look(rate: float) -> None:
    """Stages of 20 blocks, looked at after each; at 20 the evidence may lie once in 20."""
    dice, alarms, stages = random.Random(20261128), 0, 150
    for _ in range(stages):
        blocks: list[Pair] = []
        for _ in range(20):
            candidate = sum(dice.random() < rate for _ in range(60))
            live = sum(dice.random() < rate for _ in range(120))
            blocks.append(Pair(Tally(60, candidate), Tally(120, live)))
            if worse_than_live(blocks, 0.005, Tally(0, 0)) >= 20:
                alarms += 1
                break
    assert alarms / stages <= 0.05


def test_difference_that_matters_is_found() -> None:
    blocks = [Pair(Tally(300, 6), Tally(2700, 3))] * 6
    assert worse_than_live(blocks, 0.005, Tally(2700, 3)) > 400


def test_rise_of_both_sides_is_no_difference() -> None:
    blocks = [Pair(Tally(300, 30), Tally(2700, 270))] * 30
    assert worse_than_live(blocks, 0.005, Tally(2700, 3)) < 1
