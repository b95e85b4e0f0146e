"""Train/serve skew: what a version's own answers say, beside what training and live say.

Recall@k of a customer is the share of the products that they really took which are among
the first k answered, nothing excluded; of a version, the mean over its customers. Training
has to report the same. Everything else is measured over the first ten products, what a page
shows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from heapq import nsmallest

from shared.domain.paired import t_quantile
from shared.domain.policy import SkewPolicy

CUTOFFS = (10, 50, 100)
SHOWN = 10
CONFIDENCE = 0.95
ALIKE_AT_LEAST = 20
"""So many customers do not get the same list by chance."""
ROUNDED = 1e-6
"""Training may round what it reports to so many digits."""

Answers = Mapping[str, Sequence[str]]
"""Product ids by customer, best first."""


@dataclass(frozen=True)
class Recall:
    """Recall@`k` through the endpoint over `asked` of `held_out` customers, and training's.

    `low` and `high` are the 95 % interval of what all held-out customers would give; it has
    no width where all were asked. `reported` is None where training does not say it.
    """

    k: int
    served: float
    low: float
    high: float
    asked: int
    held_out: int
    reported: float | None


@dataclass(frozen=True)
class Spread:
    """How the recommendations are spread over `products`, the model's catalogue.

    `coverage` is the share of it that anybody gets; `concentration` the share of customers
    who get `most_recommended`; `gini` is 0 where all products are recommended alike and
    nears 1 where few have it all. All 0 to 1.
    """

    products: int
    coverage: float
    concentration: float
    most_recommended: str
    gini: float


@dataclass(frozen=True)
class Agreement:
    """How alike two versions answer the same `customers`.

    `overlap` is the mean share of the ten products that both have; `rank_correlation`
    Spearman's, the mean over the customers' common products (-1 to 1; None without any).
    """

    customers: int
    overlap: float
    rank_correlation: float | None


@dataclass(frozen=True)
class Finding:
    """One thing that is not as the policy wants it."""

    what: str
    why: str


def sample(customers: Iterable[str], at_most: int) -> list[str]:
    """Return `at_most` of the customers, the same ones for every version that has them.

    In the order of a hash, so that the first of them are a sample too.
    """
    return nsmallest(at_most, customers, key=lambda one: (sha256(one.encode()).digest(), one))


def recall_at(k: int, answer: Sequence[str], taken: Collection[str]) -> float:
    """Return the share (0-1) of the products `taken`, at least one, in the first `k`."""
    return len(set(answer[:k]) & set(taken)) / len(set(taken))


def measure_recall(
    k: int, answers: Answers, taken: Mapping[str, Collection[str]], reported: float | None
) -> Recall:
    """Return Recall@k over all `answers`, each of a customer in `taken`, at least one."""
    values = [recall_at(k, answer, taken[customer]) for customer, answer in answers.items()]
    mean, reach = math.fsum(values) / len(values), _reach(values, len(taken))
    low, high = max(0.0, mean - reach), min(1.0, mean + reach)
    return Recall(k, mean, low, high, len(values), len(taken), reported)


def measure_spread(answers: Answers, products: int) -> Spread:
    """Return how the answers, at least one, are spread over a catalogue of `products`."""
    counts = Counter(product for answer in answers.values() for product in set(answer[:SHOWN]))
    if not counts:
        return Spread(products, 0.0, 0.0, "", 0.0)
    most, times = min(counts.items(), key=lambda item: (-item[1], item[0]))
    catalogue = max(products, len(counts))
    return Spread(
        products, len(counts) / catalogue, times / len(answers), most, _gini(counts, catalogue)
    )


def measure_agreement(candidate: Answers, live: Answers) -> Agreement | None:
    """Return how alike the two answer the customers that both answered; None without any."""
    common = [customer for customer in candidate if live.get(customer) and candidate[customer]]
    if not common:
        return None
    overlaps = [
        len(set(candidate[one][:SHOWN]) & set(live[one][:SHOWN]))
        / min(SHOWN, max(len(candidate[one]), len(live[one])))
        for one in common
    ]
    ranks = [_spearman(candidate[customer], live[customer]) for customer in common]
    known = [one for one in ranks if one is not None]
    correlation = math.fsum(known) / len(known) if known else None
    return Agreement(len(common), math.fsum(overlaps) / len(overlaps), correlation)


def all_alike(answers: Answers) -> bool:
    """Say whether so many customers got the same products in the same order."""
    lists = {tuple(answer) for answer in answers.values()}
    return len(answers) >= ALIKE_AT_LEAST and len(lists) == 1 and lists != {()}


def find_skew(
    policy: SkewPolicy,
    recalls: Sequence[Recall],
    spread: Spread | None,
    agreement: Agreement | None,
) -> list[Finding]:
    """Return what is outside of the policy's bounds, with the numbers in each sentence."""
    found = [_of_recall(recall, policy.tolerance) for recall in recalls]
    if spread:
        found += [_of_coverage(spread, policy), _of_concentration(spread, policy)]
    if agreement:
        found.append(_of_overlap(agreement, policy))
    return [finding for finding in found if finding]


def _of_recall(recall: Recall, tolerance: float) -> Finding | None:
    if recall.reported is None:
        return None
    allowed = tolerance + ROUNDED
    if recall.low - allowed <= recall.reported <= recall.high + allowed:
        return None
    return Finding(
        f"recall_at_{recall.k}",
        f"Recall@{recall.k} through the endpoint is {recall.served:.4f} "
        f"({recall.low:.4f} to {recall.high:.4f} for all {recall.held_out:,} held-out customers, "
        f"{recall.asked:,} asked), training reported {recall.reported:.4f}: more apart than "
        f"{tolerance:g}; are these the artifacts of that run, and are customers and products "
        "named alike in training and serving?",
    )


def _of_coverage(spread: Spread, policy: SkewPolicy) -> Finding | None:
    if policy.minimum_coverage is None or spread.coverage >= policy.minimum_coverage:
        return None
    return Finding(
        "coverage",
        f"{spread.coverage:.2%} of the {spread.products:,} products are recommended to anybody, "
        f"less than {policy.minimum_coverage:.2%}",
    )


def _of_concentration(spread: Spread, policy: SkewPolicy) -> Finding | None:
    limit = policy.maximum_concentration
    if limit is None or spread.concentration <= limit:
        return None
    return Finding(
        "concentration",
        f"{spread.concentration:.1%} of the customers get product {spread.most_recommended!r} "
        f"among their first {SHOWN}, more than {limit:.1%}",
    )


def _of_overlap(agreement: Agreement, policy: SkewPolicy) -> Finding | None:
    if policy.minimum_overlap is None or agreement.overlap >= policy.minimum_overlap:
        return None
    return Finding(
        "overlap",
        f"{agreement.overlap:.1%} of the first {SHOWN} products are the live version's too, "
        f"less than {policy.minimum_overlap:.1%} ({agreement.customers:,} customers)",
    )


def _reach(values: Sequence[float], of: int) -> float:
    """Return half the width of the mean's interval, for a sample out of `of` without repeats.

    Student's, with the correction for a finite population (Cochran, Sampling Techniques,
    2.6): nothing is left to chance where all were asked.
    """
    n = len(values)
    if n >= of:
        return 0.0
    if n < 2:
        return 1.0
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return t_quantile(CONFIDENCE, n - 1) * math.sqrt(variance / n * (1 - n / of))


def _gini(counts: Mapping[str, int], products: int) -> float:
    """Return the Gini coefficient; products that nobody gets count with 0."""
    ascending = sorted(counts.values())
    unseen, total = products - len(ascending), sum(ascending)
    weighed = sum(rank * count for rank, count in enumerate(ascending, unseen + 1))
    return 2 * weighed / (products * total) - (products + 1) / products


def _spearman(ours: Sequence[str], theirs: Sequence[str]) -> float | None:
    """Return the rank correlation of the common products; None with fewer than two."""
    common = set(ours) & set(theirs)
    n = len(common)
    if n < 2:
        return None
    place = {product: rank for rank, product in enumerate(one for one in theirs if one in common)}
    squares = sum(
        (rank - place[product]) ** 2
        for rank, product in enumerate(one for one in ours if one in common)
    )
    return 1 - 6 * squares / (n * (n * n - 1))
