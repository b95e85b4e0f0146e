"""From samples to ratios: the table, the file of results, and what was promised."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.contestants import EMPTY, FLASK, PREPARED, TENSORFLOW
from benchmarks.plan import SIZES
from benchmarks.race import Outcome, Sample
from turnout.output import console, print_table

P95, BATCH = ", p95", ", batch of 1,000"
START, READY, MEMORY = ", start to first right answer", ", start to everything loaded", ", memory"
OF_EMPTY = " of the empty Flask endpoint"


@dataclass(frozen=True)
class Result:
    """A contestant's median ratio to plain Flask, in the same turns; `low` and `high` bound it."""

    name: str
    size: str
    connections: int
    ratio: float
    low: float
    high: float
    errors: int


@dataclass(frozen=True)
class Promise:
    """What must be shown: a result at a size is at least, or at most, so much."""

    name: str
    size: str
    connections: int | None
    at_least: float | None = None
    at_most: float | None = None


def _promises() -> list[Promise]:
    found = []
    for size, single, p95, batch in (("100k x 10k", 8.0, 0.2, 35), ("100k x 100k", 6.0, 0.25, 180)):
        found += [
            Promise(TENSORFLOW, size, 64, at_least=single),
            Promise(TENSORFLOW + P95, size, 16, at_most=p95),
            Promise(TENSORFLOW + BATCH, size, None, at_least=2),
            Promise(PREPARED, size, 64, at_least=16.5),
            Promise(PREPARED + OF_EMPTY, size, 64, at_least=0.9),
            Promise(PREPARED + BATCH, size, None, at_least=batch),
            Promise(PREPARED + START, size, None, at_most=0.25),
            Promise(PREPARED + MEMORY, size, None, at_most=1.5),
        ]
    return found


def results(samples: Sequence[Sample]) -> list[Result]:
    """Return every ratio that the samples give."""
    found: list[Result] = []
    sizes = dict.fromkeys(sample.size for sample in samples)
    names = dict.fromkeys(sample.contestant for sample in samples)
    for size in sizes:
        here = [sample for sample in samples if sample.size == size]
        for name in names:
            own = [sample for sample in here if sample.contestant == name]
            base = [sample for sample in here if sample.contestant == FLASK]
            for count in sorted({sample.connections for sample in own if sample.what == "load"}):
                mine, theirs = _load(own, count), _load(base, count)
                found += _ratio(name, size, count, mine, theirs, "value")
                found += _ratio(name + P95, size, count, mine, theirs, "p95_ms")
                if name == PREPARED:
                    empty = [sample for sample in here if sample.contestant == EMPTY]
                    found += _ratio(
                        name + OF_EMPTY, size, count, mine, _load(empty, count), "value"
                    )
            for what, label in (
                ("batch", BATCH),
                ("start", START),
                ("ready", READY),
                ("memory", MEMORY),
            ):
                mine = [sample for sample in own if sample.what == what]
                theirs = [sample for sample in base if sample.what == what]
                count = mine[0].connections if mine else 0
                found += _ratio(name + label, size, count, mine, theirs, "value")
    return found


def _load(samples: Iterable[Sample], connections: int) -> list[Sample]:
    return [s for s in samples if s.what == "load" and s.connections == connections]


def _ratio(
    name: str, size: str, connections: int, mine: list[Sample], theirs: list[Sample], field: str
) -> list[Result]:
    """Compare turn by turn; nothing where either side is missing."""
    base = {sample.turn: getattr(sample, field) for sample in theirs}
    ratios = [
        getattr(sample, field) / base[sample.turn] for sample in mine if base.get(sample.turn)
    ]
    if not ratios:
        return []
    errors = sum(sample.errors for sample in mine)
    return [Result(name, size, connections, median(ratios), min(ratios), max(ratios), errors)]


def write(found: Sequence[Result], path: Path) -> None:
    """Write the list of results over those of the same sizes; other sizes keep theirs.

    A ratio compares turns of one run at one size, so sizes may be run on different days.
    """
    kept = json.loads(path.read_text()) if path.exists() else []
    sizes = {result.size for result in found}
    rows = [row for row in kept if row["size"] not in sizes]
    rows += [
        {
            name: float(f"{value:.4g}") if isinstance(value, float) else value
            for name, value in asdict(result).items()
        }
        for result in found
    ]
    order = [size.title for size in SIZES.values()]
    rows.sort(key=lambda row: order.index(row["size"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(" " + json.dumps(row) for row in rows) + "\n]\n")


def show(outcome: Outcome, found: Sequence[Result]) -> None:
    """Print the tables, the comparison of answers, what was promised, and the notes."""
    samples = outcome.samples
    for size in dict.fromkeys(sample.size for sample in samples):
        _show_load([sample for sample in samples if sample.size == size], size, found)
        _show_starts([sample for sample in samples if sample.size == size], size, found)
    _show_answers(outcome)
    _show_promises(found)
    for note in outcome.notes:
        console.print(f"- {note}", highlight=False)


def _show_load(samples: list[Sample], size: str, found: Sequence[Result]) -> None:
    rows = []
    order = {"load": 0, "batch": 1}
    keys = dict.fromkeys((s.what, s.connections, s.contestant) for s in samples if s.what in order)
    for what, connections, name in sorted(keys, key=lambda key: (order[key[0]], key[1])):
        own = [
            s for s in samples if (s.what, s.connections, s.contestant) == (what, connections, name)
        ]
        label = name + (BATCH if what == "batch" else "")
        errors = sum(sample.errors for sample in own)
        first = next((sample.first_error for sample in own if sample.first_error), "")
        rows.append(
            [
                "batches" if what == "batch" else "singles",
                str(connections),
                name,
                f"{median(sample.value for sample in own):,.0f}",
                *(f"{median(getattr(s, field) for s in own):,.1f}" for field in _LATENCIES),
                *_spread(found, label, size, connections),
                f"{errors} {first[:60]}" if errors else "0",
            ]
        )
    columns = ["Asked in", "Connections ", "Contestant", "Customers/s ", "p50 ms ", "p95 ms "]
    columns += ["p99 ms ", "x Flask ", "low ", "high ", "Errors "]
    print_table(f"{size}: medians of the rounds", columns, rows)


_LATENCIES = ("p50_ms", "p95_ms", "p99_ms")


def _show_starts(samples: list[Sample], size: str, found: Sequence[Result]) -> None:
    rows = []
    for name in dict.fromkeys(s.contestant for s in samples):
        row = [name]
        for what, label in (("start", START), ("ready", READY), ("memory", MEMORY)):
            own = [s.value for s in samples if s.contestant == name and s.what == what]
            digits = 0 if what == "memory" else 2
            row += [f"{median(own):,.{digits}f}" if own else "-"]
            row += _spread(found, name + label, size, 0)[:1]
        rows.append(row)
    columns = ["Contestant", "First right answer, s ", "x Flask ", "Everything loaded, s "]
    columns += ["x Flask ", "Memory, MB ", "x Flask "]
    print_table(f"{size}: start and memory", columns, rows)


def _show_answers(outcome: Outcome) -> None:
    rows = [
        [
            name,
            f"{one.customers:,}",
            f"{one.widest:.2g}",
            str(one.swapped),
            f"{len(one.wrong)}: {one.wrong[0]}" if one.wrong else "0",
        ]
        for name, one in outcome.compared.items()
    ]
    if rows:
        columns = ["Answers", "Customers ", "Widest score distance ", "Swapped ties ", "Wrong "]
        print_table("The same answers as plain TensorFlow", columns, rows)


def _show_promises(found: Sequence[Result]) -> None:
    rows = []
    for promise in _promises():
        for result in found:
            if (result.name, result.size) != (promise.name, promise.size):
                continue
            if promise.connections not in (None, result.connections):
                continue
            kept = (promise.at_least is None or result.ratio >= promise.at_least) and (
                promise.at_most is None or result.ratio <= promise.at_most
            )
            bound = f">= {promise.at_least:g}" if promise.at_least else f"<= {promise.at_most:g}"
            verdict = "[green]yes[/]" if kept else "[red]no[/]"
            rows.append([result.name, result.size, bound, _times(result.ratio), verdict])
    if rows:
        print_table("What must be shown", ["What", "Size", "Wanted ", "Found ", "Kept"], rows)


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"


def _spread(found: Sequence[Result], name: str, size: str, connections: int) -> list[str]:
    for result in found:
        if (result.name, result.size, result.connections) == (name, size, connections):
            return [_times(value) for value in (result.ratio, result.low, result.high)]
    return ["-", "-", "-"]
