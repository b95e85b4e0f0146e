"""Counting distinct customers from the sketches that serving containers write."""

from __future__ import annotations

from collections.abc import Sequence

from shared import logs

LG_K = 12
"""At least the containers' own (serving/usage.py); the standard error is 1.6 %."""


def count_distinct(sketches: Sequence[bytes]) -> int:
    """Return about how many different customers the sketches saw together; 0 without any.

    A union: who was seen by two instances, or is in two sketches of one, counts once. A
    sketch that cannot be read is logged and left out.
    """
    if not sketches:
        return 0
    # Brings NumPy: no other function should pay for it at its start.
    import datasketches  # type: ignore[import-untyped]

    union = datasketches.hll_union(LG_K)
    for sketch in sketches:
        try:
            union.update(datasketches.hll_sketch.deserialize(sketch))
        except (ValueError, IndexError) as error:
            logs.log("sketch is unreadable", severity="ERROR", error=str(error))
    estimate: float = union.get_estimate()
    return round(estimate)
