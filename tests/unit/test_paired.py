"""The paired t-test: against published tables, and against what it must never say."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.paired import CUSTOMERS_AT_LEAST, compare_paired, t_p_value, t_quantile

# Critical values of Student's t: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2.
TABLE = [
    (0.80, 1, 3.078),
    (0.95, 1, 12.706),
    (0.90, 5, 2.015),
    (0.95, 10, 2.228),
    (0.99, 10, 3.169),
    (0.95, 29, 2.045),
    (0.998, 40, 3.307),
    (0.95, 100, 1.984),
]


@pytest.mark.parametrize(("confidence", "df", "t"), TABLE)
def test_quantile_and_p_value_are_those_of_the_table(confidence: float, df: int, t: float) -> None:
    assert t_quantile(confidence, df) == pytest.approx(t, abs=6e-4)
    assert t_p_value(t, df) == pytest.approx(1 - confidence, abs=1e-3)
    assert t_p_value(-t, df) == t_p_value(t, df)


def test_many_degrees_of_freedom_come_to_the_normal_distribution() -> None:
    for z in (0.5, 1.0, 1.959964, 3.0):
        normal = math.erfc(z / math.sqrt(2))
        assert t_p_value(z, 2_000_000) == pytest.approx(normal, rel=1e-4)


@given(st.floats(-1e6, 1e6), st.integers(1, 100_000))
def test_p_value_is_a_chance_that_falls_with_the_distance(t: float, df: int) -> None:
    assert 0 <= t_p_value(t, df) <= 1
    assert t_p_value(t, df) >= t_p_value(2 * t, df) - 1e-12


@given(st.floats(0.01, 0.9999), st.integers(1, 10_000))
def test_quantile_and_p_value_undo_each_other(confidence: float, df: int) -> None:
    assert t_p_value(t_quantile(confidence, df), df) == pytest.approx(1 - confidence, abs=1e-9)


def results(seed: int, n: int, shift: float) -> tuple[dict[str, float], dict[str, float]]:
    """Recalls of two versions over the same customers, who differ far more than versions do."""
    random = Random(seed)
    live = {f"c{number}": random.random() for number in range(n)}
    return {name: value + random.gauss(shift, 0.1) for name, value in live.items()}, live


def test_textbook_example_is_reproduced() -> None:
    # Differences 1, 2, ..., 30: mean 15.5, standard deviation 8.803, t = 9.643 with 29 degrees.
    found = compare_paired(
        {str(n): float(n) for n in range(1, 31)}, {str(n): 0.0 for n in range(1, 31)}, 0.95
    )
    assert found is not None
    assert (found.n, found.mean) == (30, 15.5)
    assert found.high - found.mean == pytest.approx(2.04523 * 8.803408 / math.sqrt(30), rel=1e-5)
    assert found.p == pytest.approx(1.5e-10, rel=0.1)


def test_small_gain_is_found_because_the_same_customers_are_compared() -> None:
    candidate, live = results(seed=1, n=2000, shift=0.01)
    found = compare_paired(candidate, live, 0.95)
    assert found is not None
    assert found.p < 0.01
    assert 0 < found.low < 0.01 < found.high


def test_false_alarms_are_as_rare_as_promised() -> None:
    tests = [compare_paired(*results(seed, 60, 0.0), 0.95) for seed in range(2000)]
    wrong = sum(found is not None and found.p < 0.05 for found in tests)
    assert 60 <= wrong <= 140, "of 2,000 comparisons of equals, some 100"


def test_only_common_customers_count_and_too_few_of_them_are_no_test() -> None:
    candidate = {f"c{number}": 0.5 for number in range(100)}
    live = {f"c{number}": 0.4 for number in range(100 - CUSTOMERS_AT_LEAST + 1, 200)}
    assert compare_paired(candidate, live, 0.95) is None
    live["c0"] = 0.4
    found = compare_paired(candidate, live, 0.95)
    assert found is not None
    assert found.n == CUSTOMERS_AT_LEAST


@pytest.mark.parametrize(("gain", "p"), [(0.0, 1.0), (0.1, 0.0), (-0.1, 0.0)])
def test_differences_that_are_all_the_same_leave_nothing_to_chance(gain: float, p: float) -> None:
    live = {f"c{number}": number / 7 for number in range(50)}
    found = compare_paired({name: value + gain for name, value in live.items()}, live, 0.95)
    assert found is not None
    assert found.mean == pytest.approx(gain)
    assert found.p == pytest.approx(p, abs=1e-12)


@given(
    st.lists(st.floats(-1e90, 1e90), min_size=30, max_size=60),
    st.floats(0.5, 0.999),
)
def test_interval_leaves_0_out_exactly_where_p_says_so(
    differences: list[float], confidence: float
) -> None:
    candidate = {str(number): value for number, value in enumerate(differences)}
    found = compare_paired(candidate, dict.fromkeys(candidate, 0.0), confidence)
    assert found is not None
    assert all(map(math.isfinite, (found.mean, found.low, found.high, found.p)))
    assert found.low <= found.mean <= found.high
    if abs(found.p - (1 - confidence)) > 1e-9:
        assert (found.low > 0 or found.high < 0) == (found.p < 1 - confidence)
