"""What a version's answers say, by small examples worked out by hand and by properties."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.policy import SkewPolicy
from shared.domain.skew import (
    ALIKE_AT_LEAST,
    Agreement,
    Recall,
    Spread,
    all_alike,
    find_skew,
    measure_agreement,
    measure_recall,
    measure_spread,
    recall_at,
    sample,
)

products = st.lists(st.sampled_from([f"p{n}" for n in range(30)]), unique=True, max_size=30)
answers = st.dictionaries(st.text(min_size=1, max_size=3), products, min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("k", "answer", "taken", "recall"),
    [
        pytest.param(2, ["a", "b", "c"], ["a", "b"], 1.0, id="all"),
        pytest.param(2, ["a", "b", "c"], ["c"], 0.0, id="beyond k"),
        pytest.param(3, ["a", "b", "c"], ["c", "x"], 0.5, id="half of what was taken"),
        pytest.param(10, ["a"], ["a", "b", "c", "a"], 1 / 3, id="taken twice counts once"),
        pytest.param(10, [], ["a"], 0.0, id="no answer"),
    ],
)
def test_recall_is_the_share_of_what_was_taken(
    k: int, answer: Sequence[str], taken: Sequence[str], recall: float
) -> None:
    assert recall_at(k, answer, taken) == pytest.approx(recall)


def test_recall_is_defined_as_training_defines_it() -> None:
    from examples.movielens.evaluate import HeldOut, mean_recalls

    random = Random(3)
    catalogue = [f"p{n}" for n in range(300)]
    taken = {f"c{n}": tuple(random.sample(catalogue, random.randint(1, 60))) for n in range(200)}
    given = {customer: random.sample(catalogue, 100) for customer in taken}
    reported = mean_recalls(list(given.values()), HeldOut(tuple(taken), tuple(taken.values())))
    for k in (10, 50, 100):
        found = measure_recall(k, given, taken, reported[f"recall_at_{k}"])
        assert found.served == pytest.approx(found.reported, abs=1e-6)
        assert find_skew(SkewPolicy(tolerance=0.0), [found], None, None) == []


@given(st.sets(st.text(min_size=1), max_size=60), st.integers(1, 60), st.integers(1, 60))
def test_sample_is_the_same_for_every_version_and_its_begin_is_a_sample_too(
    customers: set[str], few: int, more: int
) -> None:
    ordered = sorted(customers)
    chosen = sample(ordered, few)
    assert chosen == sample(reversed(ordered), few)
    assert len(chosen) == len(set(chosen)) == min(few, len(customers))
    assert sample(customers, few + more)[:few] == chosen


def test_sample_misses_the_whole_by_no_more_than_it_says() -> None:
    random = Random(5)
    taken = {f"c{n}": ("a",) for n in range(1000)}
    given = {name: ["a"] if random.random() < 0.3 else ["b"] for name in taken}
    whole = measure_recall(10, given, taken, None)
    assert (whole.low, whole.high) == (whole.served, whole.served)
    missed = 0
    for seed in range(400):
        some = Random(seed).sample(sorted(taken), 200)
        found = measure_recall(10, {name: given[name] for name in some}, taken, None)
        assert found.low < found.served < found.high
        missed += not found.low <= whole.served <= found.high
    assert 5 <= missed <= 40, "a 95 % interval misses some 20 of 400 times"


@pytest.mark.parametrize(
    ("served", "reach", "reported", "found"),
    [
        pytest.param(0.30, 0.0, 0.32, False, id="within the tolerance"),
        pytest.param(0.30, 0.0, 0.33, True, id="lower than reported"),
        pytest.param(0.30, 0.0, 0.27, True, id="higher than reported"),
        pytest.param(0.30, 0.02, 0.34, False, id="within the sample's own error as well"),
        pytest.param(0.30, 0.02, 0.345, True, id="beyond both"),
        pytest.param(0.30, 0.0, None, False, id="not reported"),
    ],
)
def test_recall_that_differs_by_more_than_tolerance_and_error_is_found(
    served: float, reach: float, reported: float | None, found: bool
) -> None:
    recall = Recall(10, served, served - reach, served + reach, 100, 500, reported)
    findings = find_skew(SkewPolicy(tolerance=0.02), [recall], None, None)
    assert [one.what for one in findings] == (["recall_at_10"] if found else [])
    for one in findings:
        assert "0.3000" in one.why
        assert f"{reported:.4f}" in one.why


def test_spread_by_hand() -> None:
    found = measure_spread({"x": ["a", "b"], "y": ["a", "c"], "z": ["a", "d"]}, 8)
    assert asdict(found) == {
        "products": 8,
        "coverage": 0.5,
        "concentration": 1.0,
        "most_recommended": "a",
        # Counts 0 0 0 0 1 1 1 3: 2 * (5 + 6 + 7 + 24) / (8 * 6) - 9 / 8.
        "gini": pytest.approx(0.625),
    }


def test_only_the_products_that_a_page_shows_are_spread() -> None:
    found = measure_spread({"x": [f"p{n}" for n in range(100)]}, 100)
    assert found.coverage == 0.1


@given(answers, st.integers(1, 60))
def test_spread_is_made_of_shares(given: dict[str, list[str]], catalogue: int) -> None:
    found = measure_spread(given, catalogue)
    for share in (found.coverage, found.concentration, found.gini):
        assert -1e-12 <= share <= 1


def test_agreement_by_hand() -> None:
    found = measure_agreement(
        {"x": ["a", "b", "c", "d"], "y": ["a", "b"], "only here": ["a"]},
        {"x": ["d", "c", "b", "a"], "y": ["a", "z"], "only there": ["a"]},
    )
    # x has all four in the opposite order; y one of two in common, which has no order.
    assert found == Agreement(customers=2, overlap=0.75, rank_correlation=-1.0)


def test_nobody_in_common_is_no_agreement() -> None:
    assert measure_agreement({"x": ["a"]}, {"y": ["a"]}) is None
    assert measure_agreement({"x": ["a"]}, {"x": []}) is None


@given(answers, answers)
def test_agreement_with_oneself_is_whole_and_with_others_the_same_both_ways(
    ours: dict[str, list[str]], theirs: dict[str, list[str]]
) -> None:
    alone = measure_agreement(ours, ours)
    if alone is not None:
        assert alone.overlap == pytest.approx(1)
        assert alone.rank_correlation in (None, pytest.approx(1))
    one, other = measure_agreement(ours, theirs), measure_agreement(theirs, ours)
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert one.overlap == pytest.approx(other.overlap)
        assert one.rank_correlation == (
            None if one.rank_correlation is None else pytest.approx(other.rank_correlation)
        )
        assert 0 <= one.overlap <= 1


@pytest.mark.parametrize(
    ("policy", "what"),
    [
        pytest.param(SkewPolicy(), [], id="no bounds"),
        pytest.param(SkewPolicy(minimum_coverage=0.5), [], id="covers enough"),
        pytest.param(SkewPolicy(minimum_coverage=0.51), ["coverage"], id="covers too little"),
        pytest.param(SkewPolicy(maximum_concentration=0.4), [], id="spread enough"),
        pytest.param(SkewPolicy(maximum_concentration=0.39), ["concentration"], id="concentrated"),
        pytest.param(SkewPolicy(minimum_overlap=0.3), [], id="alike enough"),
        pytest.param(SkewPolicy(minimum_overlap=0.31), ["overlap"], id="another model altogether"),
    ],
)
def test_bounds_of_the_policy_are_checked_where_it_has_them(
    policy: SkewPolicy, what: list[str]
) -> None:
    spread = Spread(50, 0.5, 0.4, "p7", 0.1)
    findings = find_skew(policy, [], spread, Agreement(100, 0.3, None))
    assert [one.what for one in findings] == what
    assert json.dumps([asdict(one) for one in findings])


def test_bounds_of_what_was_not_measured_find_nothing() -> None:
    strict = SkewPolicy(minimum_coverage=1, maximum_concentration=0, minimum_overlap=1)
    assert find_skew(strict, [], None, None) == []


@pytest.mark.parametrize(
    ("customers", "lists", "alike"),
    [
        pytest.param(ALIKE_AT_LEAST, [["a", "b"]], True, id="one list for everybody"),
        pytest.param(ALIKE_AT_LEAST - 1, [["a", "b"]], False, id="too few to tell"),
        pytest.param(ALIKE_AT_LEAST, [["a", "b"], ["b", "a"]], False, id="another order"),
        pytest.param(ALIKE_AT_LEAST, [[]], False, id="nothing for everybody is another fault"),
    ],
)
def test_one_list_for_everybody_is_seen(
    customers: int, lists: list[list[str]], alike: bool
) -> None:
    assert all_alike({f"c{n}": lists[n % len(lists)] for n in range(customers)}) is alike
