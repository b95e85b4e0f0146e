"""Traffic arithmetic: whole percents, named revisions, always 100 in all."""

from __future__ import annotations

import re
from collections.abc import Mapping

Split = Mapping[str, int]
"""Revision name to its share of traffic, in percent; shares above 0 that sum to 100."""


def check_split(split: Split) -> dict[str, int]:
    """Return `split` without its empty shares; ValueError unless the rest sums to 100."""
    shares = {revision: percent for revision, percent in split.items() if percent}
    if any(percent < 0 for percent in shares.values()) or sum(shares.values()) != 100:
        raise ValueError(f"traffic must be shares above 0 that sum to 100, got {dict(split)}")
    return shares


def with_candidate(stable: Split, candidate: str, percent: int) -> dict[str, int]:
    """Give `candidate` its `percent` (1-100) and leave the rest to `stable` as it was divided.

    Where `stable` is more than one revision, the rest is divided in the old proportions by
    largest remainder (the Hamilton method), so that the sum is 100 exactly.
    """
    if not 0 < percent <= 100:
        raise ValueError(f"a candidate's share is 1 to 100 percent, got {percent}")
    others = {name: share for name, share in check_split(stable).items() if name != candidate}
    rest = 100 - percent
    if not others or not rest:
        return {candidate: 100}
    total = sum(others.values())
    exact = {name: share * rest / total for name, share in others.items()}
    shares = {name: int(quota) for name, quota in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (shares[name] - exact[name], name))
    for name in by_remainder[: rest - sum(shares.values())]:
        shares[name] += 1
    return check_split({**shares, candidate: percent})


def difference(desired: Split, written: Split, served: Split) -> str:
    """Return how a service differs from the desired split, for people; "" where it does not.

    `written` is its specification, with "" for what is left to the latest revision; `served`
    what its status says. Nothing differs from a split that nobody desired yet.
    """
    if not desired or dict(written) == dict(served) == dict(desired):
        return ""
    if dict(written) == dict(desired):
        return f"{describe(served)} is served, {describe(desired)} is desired and written"
    shown = {revision or "LATEST": share for revision, share in written.items()}
    also = "" if shown == dict(served) else f", {describe(shown)} is written"
    return f"{describe(served)} is served{also}, {describe(desired)} is desired"


def describe(split: Split) -> str:
    """Return `split` as a person reads it: `model-v3 90 % + model-v4 10 %`."""
    ordered = sorted(split.items(), key=lambda item: (-item[1], item[0]))
    return " + ".join(f"{revision} {percent} %" for revision, percent in ordered) or "nothing"


def version_of(revision: str) -> str:
    """Return `v3` of `model-serving-movies-v3-1`, or the revision's own name."""
    found = re.fullmatch(r".+-(v[0-9]+)-[0-9]+", revision)
    return found[1] if found else revision
