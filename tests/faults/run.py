"""`make faults`: every fault at every step, on real processes: `python -m tests.faults.run`.

Each case is a story with one fault in it. It has to come to rest, completed or as before, with
every promise kept: see `tests.faults.checks`. Exit code 1 says that one was not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.util import Finalize
from pathlib import Path
from types import TracebackType

import requests
from google.api_core.exceptions import GoogleAPIError

from tests.faults import checks, report
from tests.faults.cases import HOPELESS, Call, Case, matrix, sample
from tests.faults.rig import MODEL, Rig, Watch
from tests.faults.stories import STORIES

DEADLINE_S = 240.0
# A cloud keeps every version that it was given, so a fresh one is taken now and then.
CASES_A_CLOUD = 25
RECONCILED_EVERY_S = 1.5
STRUCK_WITHIN_S = 60.0
QUICK_OF_EACH = 2


@dataclass
class Result:
    """What became of one case; `repairs` is what reconcile found to do."""

    case: Case
    outcome: str = ""
    took_s: float = 0.0
    requests: int = 0
    repairs: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    unbounded: set[str] = field(default_factory=set)

    @property
    def line(self) -> str:
        """Say it in a line, and one for each violation."""
        by = " by reconcile" if self.repairs else ""
        ending = "VIOLATION" if self.violations else f"{self.outcome}{by}"
        wrong = "".join(f"\n      !! {violation}" for violation in self.violations)
        return f"{self.case.story}: {self.case.name} → {ending} ({self.took_s:.1f} s){wrong}"


class Clouds:
    """Hands out a cloud whose model has two versions; a fresh one when `renew` was called."""

    def __init__(self, keep: bool = False) -> None:
        self._keep = keep
        self._open = ExitStack()
        self._rig: Rig | None = None
        self._used = 0

    def __enter__(self) -> Clouds:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.renew()

    def take(self) -> Rig:
        """Return the cloud for one more case."""
        if self._used >= CASES_A_CLOUD:
            self.renew()
        if self._rig is None:
            self._rig = self._fresh()
        self._used += 1
        return self._rig

    def renew(self) -> None:
        """End the cloud; the next case gets another."""
        self._rig, self._used = None, 0
        self._open.close()

    def _fresh(self) -> Rig:
        folder = tempfile.mkdtemp(prefix="turnout-faults-")
        if not self._keep:
            self._open.callback(shutil.rmtree, folder, ignore_errors=True)
        rig = self._open.enter_context(Rig(Path(folder)))
        for _ in range(2):
            rig.world.ended(rig.publish(strategy="immediate"), "active")
            rig.world.unlocked(MODEL)
        return rig


def play(clouds: Clouds, case: Case) -> Result:
    """Play one case to its end, on a cloud that nothing went wrong on before."""
    result = Result(case)
    rig = clouds.take()
    begun = time.monotonic()
    before = checks.Before.of(rig)
    rig.refused = ""
    deployment_ids: Sequence[str] = ()
    with Watch(rig) as watch:
        try:
            deployment_ids = STORIES[case.story].play(rig, [case.rule])
            _settle(rig, case, deployment_ids, result)
            result.outcome = checks.outcome(rig, deployment_ids, before)
            if result.outcome not in ("completed", "as before"):
                result.violations.append(result.outcome)
            result.violations += checks.states(rig, deployment_ids)
        except Exception as error:  # the boundary of a case: whatever it is, the next one runs
            result.violations.append(f"{type(error).__name__}: {str(error)[:3000]}")
    result.violations += checks.watched(rig, watch)
    result.requests = watch.requests
    result.unbounded = {
        f"{line['function']}, {line['method']}"
        for line in rig.noted()
        if line.get("fault") == "no deadline"
    }
    result.took_s = time.monotonic() - begun
    if result.violations:
        clouds.renew()
    else:
        # What strikes for ever must not strike the next story, which arms its own rules late.
        rig.arm([])
    return result


def _settle(rig: Rig, case: Case, deployment_ids: Sequence[str], result: Result) -> None:
    """Wait until the model is at rest, with reconcile at work once the fault has struck."""
    begun = time.monotonic()
    next_at = None
    while not _at_rest(rig, deployment_ids):
        now = time.monotonic()
        if next_at is None and (rig.struck(case.rule) or now > begun + STRUCK_WITHIN_S):
            next_at = now + RECONCILED_EVERY_S
        if next_at is not None and now >= next_at:
            result.repairs += rig.reconcile()
            next_at = time.monotonic() + RECONCILED_EVERY_S
        if now > begun + DEADLINE_S:
            found = [rig.world.deployment(one) for one in deployment_ids]
            raise AssertionError(
                f"not at rest after {DEADLINE_S:g} s: {rig.model()}, executions "
                f"{rig.executions()}, {found}"
            )
        time.sleep(0.1)
    if not rig.struck(case.rule):
        result.violations.append("the fault was never met: the call that it names was not made")


def _at_rest(rig: Rig, deployment_ids: Sequence[str]) -> bool:
    try:
        return checks.at_rest(rig, deployment_ids)
    except (GoogleAPIError, requests.RequestException):
        return False  # the cloud is being started again


def observe(clouds: Clouds, name: str) -> list[Call]:
    """Play a story without a fault; return the calls that the functions made."""
    story, rig = STORIES[name], clouds.take()
    before = checks.Before.of(rig)
    rig.refused = ""
    with Watch(rig) as watch:
        deployment_ids = story.play(rig, [])
        end = time.monotonic() + DEADLINE_S
        while not _at_rest(rig, deployment_ids):
            if time.monotonic() > end:
                raise AssertionError(f"{name} without a fault does not end: {rig.model()}")
            time.sleep(0.1)
        calls = rig.calls()
        found = checks.outcome(rig, deployment_ids, before)
        broken = checks.states(rig, deployment_ids)
    broken += checks.watched(rig, watch)
    if found != story.succeeds or broken:
        raise AssertionError(f"{name} without a fault: {found}, {broken}")
    return calls


def all_cases(clouds: Clouds) -> list[Case]:
    """Return the whole matrix, from what fault-free runs of all stories call."""
    cases: list[Case] = []
    for name, story in STORIES.items():
        calls = observe(clouds, name)
        for function in story.functions:
            cases += matrix(name, function, calls, story.methods)
    return [*cases, *HOPELESS]


class Lane:
    """A process that plays one case after the other on clouds of its own."""

    clouds: Clouds

    @classmethod
    def open(cls, keep: bool) -> None:
        """Begin; the clouds end with the process."""
        cls.clouds = Clouds(keep)
        Finalize(cls, cls.clouds.renew, exitpriority=1)

    @classmethod
    def play(cls, case: Case) -> Result:
        """Play one case."""
        return play(cls.clouds, case)


def in_lanes(cases: Sequence[Case], lanes: int, keep: bool) -> Iterator[Result]:
    """Play the cases in as many processes at once; give each result when it is there."""
    # Not forked: clients of gRPC do not survive that.
    with multiprocessing.get_context("spawn").Pool(lanes, Lane.open, (keep,)) as pool:
        yield from pool.imap_unordered(Lane.play, cases)
        pool.close()
        pool.join()


def main() -> int:
    """Run the matrix, print one line a case and a table, write the page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    quick = os.environ.get("QUICK", "") not in ("", "0")
    parser.add_argument("--quick", action="store_true", default=quick, help="a sample (QUICK=1)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the sample")
    parser.add_argument("--only", default="", help="only cases whose line contains this")
    parser.add_argument("--lanes", type=int, default=2, help="how many cases at once")
    parser.add_argument("--keep", action="store_true", help="keep the clouds' folders")
    options = parser.parse_args()
    with Clouds(options.keep) as clouds:
        every = all_cases(clouds)
    cases = [case for case in every if options.only in f"{case.story}: {case.name}"]
    if options.quick:
        print(f"A sample of the matrix, seed {options.seed}", flush=True)
        cases = sample(cases, options.seed, QUICK_OF_EACH)
    results: list[Result] = []
    for result in in_lanes(cases, options.lanes, options.keep):
        results.append(result)
        print(f"[{len(results):3}/{len(cases)}] {result.line}", flush=True)
    print(report.table(results))
    if len(results) == len(every):
        report.write(results)
    return int(any(result.violations for result in results))


if __name__ == "__main__":
    sys.exit(main())
