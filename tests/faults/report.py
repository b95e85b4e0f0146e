"""The matrix as a table, and docs/faults.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.cases import FAULTS

if TYPE_CHECKING:
    from tests.faults.run import Result

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
_HEADING = "## Outcome\n"


def table(results: Sequence[Result]) -> str:
    """Return the counts by function and fault: cases, and how many of them failed."""
    functions = list(dict.fromkeys(result.case.rule.function for result in results))
    faults = [
        fault for fault in FAULTS if any(result.case.rule.fault == fault for result in results)
    ]
    heads = ["Function", *faults, "Completed", "As before", "By reconcile", "Violations"]
    rows = [
        [function, *_counts([r for r in results if r.case.rule.function == function], faults)]
        for function in functions
    ]
    rows.append(["all", *_counts(results, faults)])
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _counts(results: Sequence[Result], faults: Iterable[str]) -> list[str]:
    kinds = Counter(result.case.rule.fault for result in results)
    passed = Counter(result.outcome for result in results if not result.violations)
    repaired = sum(bool(result.repairs) for result in results if not result.violations)
    failed = sum(bool(result.violations) for result in results)
    numbers = [*(kinds[fault] for fault in faults)]
    numbers += [passed["completed"], passed["as before"], repaired, failed]
    return [str(number) for number in numbers]


def write(results: Sequence[Result]) -> None:
    """Replace the page's outcome by that of a complete run."""
    about, heading, _ = PAGE.read_text().partition(_HEADING)
    PAGE.write_text(f"{about}{heading}\n{table(results)}\n\n{_summary(results)}\n")


def _summary(results: Sequence[Result]) -> str:
    passed = [result for result in results if not result.violations]
    failed = [result for result in results if result.violations]
    ended = Counter(result.outcome for result in passed)
    repaired = sum(bool(result.repairs) for result in passed)
    asked = sum(result.requests for result in results)
    said = (
        f"{len(results)} cases: {ended['completed']} completed, {ended['as before']} as before; "
        f"in {repaired} of them reconcile had something to do, the others were put right by "
        f"retries and redeliveries alone. {asked:,} predictions were asked for. "
        f"Violations: {len(failed) or 'none'}."
    )
    listed = [
        f"- {result.case.story}: {result.case.name}: {'; '.join(result.violations)[:300]}"
        for result in failed
    ]
    unbounded = sorted({name for result in results for name in result.unbounded})
    listed += [f"- No deadline of its own: {name}" for name in unbounded]
    return "\n".join([said, *([""] if listed else []), *listed])
