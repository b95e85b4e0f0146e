"""Traffic arithmetic: whole percents that sum to 100, whatever the shares were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.traffic import check_split, describe, with_candidate


@st.composite
def splits(draw: st.DrawFn) -> dict[str, int]:
    """A valid split of 1 to 6 revisions, shares of 0 among them."""
    cuts = sorted(draw(st.lists(st.integers(0, 100), max_size=5)))
    shares = [b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)]
    return {f"r{number}": share for number, share in enumerate(shares)}


def test_split_loses_its_empty_shares() -> None:
    assert check_split({"a": 100, "b": 0}) == {"a": 100}


@pytest.mark.parametrize(
    "split",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"a": 99}, id="too little"),
        pytest.param({"a": 60, "b": 60}, id="too much"),
        pytest.param({"a": 150, "b": -50}, id="a negative share"),
    ],
)
def test_split_that_is_not_100_percent_is_refused(split: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="sum to 100"):
        check_split(split)


@pytest.mark.parametrize(
    ("stable", "percent", "expected"),
    [
        pytest.param({"a": 100}, 10, {"a": 90, "c": 10}, id="one stable version gives"),
        pytest.param({"a": 100}, 100, {"c": 100}, id="all goes over"),
        pytest.param({"a": 90, "c": 10}, 50, {"a": 50, "c": 50}, id="the candidate has a share"),
        pytest.param({"c": 100}, 10, {"c": 100}, id="nobody else could have the rest"),
        pytest.param({"a": 50, "b": 50}, 1, {"a": 50, "b": 49, "c": 1}, id="a tie by name"),
        pytest.param({"a": 67, "b": 33}, 50, {"a": 34, "b": 16, "c": 50}, id="largest remainder"),
        pytest.param({"a": 99, "b": 1}, 90, {"a": 10, "c": 90}, id="a share rounds away"),
    ],
)
def test_candidate_takes_its_share_and_the_rest_keeps_its_proportions(
    stable: dict[str, int], percent: int, expected: dict[str, int]
) -> None:
    assert with_candidate(stable, "c", percent) == expected


@given(splits(), st.integers(1, 100), st.sampled_from(["c", "r0"]))
def test_any_split_with_any_candidate_sums_to_100_and_stays_within_one_percent(
    stable: dict[str, int], percent: int, candidate: str
) -> None:
    split = with_candidate(stable, candidate, percent)
    others = {name: share for name, share in stable.items() if share and name != candidate}
    assert sum(split.values()) == 100
    assert min(split.values()) > 0
    assert split.keys() <= {*others, candidate}
    if others:
        assert split[candidate] == percent
        for name, share in others.items():
            exact = share * (100 - percent) / sum(others.values())
            assert abs(split.get(name, 0) - exact) < 1


@pytest.mark.parametrize("percent", [0, -1, 101])
def test_share_of_a_candidate_outside_1_to_100_is_refused(percent: int) -> None:
    with pytest.raises(ValueError, match="1 to 100"):
        with_candidate({"a": 100}, "c", percent)


def test_split_is_described_largest_first() -> None:
    assert describe({"v4": 10, "v3": 90}) == "v3 90 % + v4 10 %"
    assert describe({}) == "nothing"
