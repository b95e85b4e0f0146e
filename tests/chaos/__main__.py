"""`python -m tests.chaos` (`make chaos`): random interleavings until as many were played as asked.

    make chaos SEQUENCES=20000          the run that a release wants
    make chaos SEED=123 SEQUENCES=100   the same sequences again
    python -m tests.chaos --script '…'  one sequence, as a violation prints it

All cores take parts of 100 sequences; part n is drawn by hypothesis from seed SEED + n. The
first violation ends the run: hypothesis has shrunk its script by then, by leaving out moves
and lowering numbers for as long as the same kind of violation is met.
"""

from __future__ import annotations

import argparse
import itertools
import os
import secrets
import sys
import traceback
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given, seed, settings
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from tests.chaos.kinds import KINDS
from tests.chaos.play import Scene
from tests.chaos.scripts import Move, from_json, played, scenes, scripts, to_json

CORES = os.cpu_count() or 1
PART = 100
ENOUGH_FOR_EVERY_KIND = 2000


@dataclass
class Part:
    """What a part of the run came to; `violation` says all about the first one, if any."""

    sequences: int = 0
    happened: Counter[str] = field(default_factory=Counter)
    violation: str = ""
    violations: int = 0


def play_part(first_seed: int, size: int) -> Part:
    """Play `size` sequences drawn from one seed, at least; always the same ones."""
    part = Part()
    failing: list[str] = []

    @seed(first_seed)
    @settings(
        max_examples=size,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(script=scripts, scene=scenes)
    def follow(script: list[Move], scene: Scene) -> None:
        try:
            play = played(script, scene)
        except BaseException:
            failing.append(to_json(script, scene))
            raise
        if not failing:
            part.sequences += 1
            part.happened += play.happened

    try:
        follow()
    except BaseException as found:
        # hypothesis plays the smallest one last.
        part.violation = _told(found, first_seed, failing[-1] if failing else "")
    return part


def _told(found: BaseException, first_seed: int, script: str) -> str:
    return "\n".join(
        [
            "".join(traceback.format_exception(found)),
            f"Drawn again: make chaos SEED={first_seed} SEQUENCES={PART}",
            f"Repeated:    python -m tests.chaos --script '{script}'",
        ]
    )


def _run(first: int, sequences: int) -> Part:
    """Play parts on all cores until there are `sequences` in all, or a violation was found."""
    whole = Part()
    numbers = itertools.count(first)
    bar = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress("sequences", *bar) as progress, ProcessPoolExecutor() as pool:
        task = progress.add_task("sequences", total=sequences)
        running: set[Future[Part]] = set()
        asked = 0
        while running or (whole.sequences < sequences and not whole.violation):
            while asked < sequences and len(running) < 2 * CORES and not whole.violation:
                asked += PART
                running.add(pool.submit(play_part, next(numbers), PART))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for part in (one.result() for one in done):
                # A part may find fewer than it was to: the rest is drawn from other seeds.
                asked -= max(0, PART - part.sequences)
                whole.sequences += part.sequences
                whole.happened += part.happened
                whole.violation = whole.violation or part.violation
                whole.violations += bool(part.violation)
                progress.update(task, completed=min(whole.sequences, sequences))
    return whole


def _print_kinds(whole: Part) -> None:
    table = Table("what happened", "times", box=None)
    table.columns[1].justify = "right"
    for kind, count in sorted(whole.happened.items()):
        table.add_row(kind, f"{count:,}")
    Console().print(table)


def main() -> int:
    """Run as asked; return 0, or 1 where a violation was found or a kind never happened."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--sequences", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--script", help="play this one only")
    asked = parser.parse_args()
    if asked.script:
        script, scene = from_json(asked.script)
        print("\n".join(played(script, scene).scheduler.trace))
        return 0
    first = secrets.randbelow(10**9) if asked.seed is None else asked.seed
    print(f"seed {first}")
    whole = _run(first, asked.sequences)
    _print_kinds(whole)
    missing = [kind for kind in KINDS if not whole.happened[kind]]
    if missing:
        print("never happened: " + ", ".join(missing))
    if whole.violation:
        print(whole.violation)
    crashes = sum(count for kind, count in whole.happened.items() if kind.startswith("crash"))
    print(f"sequences {whole.sequences}, crashes injected {crashes}, violations {whole.violations}")
    return int(bool(whole.violation or (missing and whole.sequences >= ENOUGH_FOR_EVERY_KIND)))


if __name__ == "__main__":
    sys.exit(main())
