"""The paired t-test: is one of two versions really better for the same customers?

Of the tests in use for rankings, the t-test, the bootstrap and the randomization test agree,
while the sign and Wilcoxon tests mislead: Smucker, Allan, Carterette, "A comparison of
statistical significance tests for information retrieval evaluation", CIKM 2007. The t-test
stays closest to its promised error: Urbano, Lima, Hanjalic, "Statistical significance testing
in information retrieval", SIGIR 2019. It needs no random numbers, and one pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

CUSTOMERS_AT_LEAST = 30
"""With fewer the mean of such skewed values is too far from normal for the test."""
STEPS_AT_MOST = 10_000
"""Some sqrt(n) are needed: 1,000 for a million customers."""
_SMALLEST = 1e-300
_PRECISE = 3e-16


@dataclass(frozen=True)
class Paired:
    """The mean difference (candidate minus live) over `n` common customers.

    `low` and `high` bound it with `confidence` (0-1); `p` is two-sided, and below
    1 - `confidence` exactly where the interval leaves 0 out.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float
    confidence: float


def compare_paired(
    candidate: Mapping[str, float], live: Mapping[str, float], confidence: float
) -> Paired | None:
    """Return the paired test over the customers of both; None with fewer than 30 of them."""
    differences = [value - live[name] for name, value in candidate.items() if name in live]
    n = len(differences)
    if n < CUSTOMERS_AT_LEAST:
        return None
    mean = math.fsum(differences) / n
    error = math.sqrt(math.fsum((one - mean) ** 2 for one in differences) / (n - 1) / n)
    # Below this the differences are all the same, but for the rounding of their mean.
    if error <= 1e-12 * abs(mean):
        return Paired(n, mean, mean, mean, 0.0 if mean else 1.0, confidence)
    reach = error * t_quantile(confidence, n - 1)
    p = t_p_value(mean / error, n - 1)
    return Paired(n, mean, mean - reach, mean + reach, p, confidence)


def t_p_value(t: float, df: int) -> float:
    """Return the chance (0-1) that Student's t with `df` degrees lies as far from 0 as `t`."""
    return _incomplete_beta(df / (df + t * t), df / 2, 0.5)


def t_quantile(confidence: float, df: int) -> float:
    """Return the t that Student's stays within (+-t) with that confidence (0-1, exclusive)."""
    low, high = 0.0, 1.0
    while t_p_value(high, df) > 1 - confidence and high < 1e9:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_p_value(middle, df) > 1 - confidence else (low, middle)
    return high


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Return I_x(a, b), by the continued fraction of NIST DLMF 8.17.22."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction would converge slowly
        return 1 - _incomplete_beta(1 - x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(scale + a * math.log(x) + b * math.log1p(-x)) / a
    return min(1.0, front * _fraction(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    """Evaluate it from the front (modified Lentz; Numerical Recipes, 3rd edition, 6.4)."""
    up, down = 1.0, 1 / _away_from_0(1 - (a + b) * x / (a + 1))
    value = down
    for m in range(1, STEPS_AT_MOST):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            down = 1 / _away_from_0(1 + term * down)
            up = _away_from_0(1 + term / up)
            value *= up * down
        if abs(up * down - 1) < _PRECISE:
            break
    return value


def _away_from_0(value: float) -> float:
    return value if abs(value) > _SMALLEST else _SMALLEST
