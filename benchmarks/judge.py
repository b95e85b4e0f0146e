"""How often the canary's judge is wrong, and how soon it is right, over simulated stages.

The judge is the product's own (shared/domain/canary.py, with the policy's defaults), looked at
after every minute; the plain thresholds are what is usual elsewhere: an error rate above 1 % or
a p95 above 1.5 times the live one's, over the same requests, and no data is health. Traffic is
made up: log-normal latencies with a Pareto tail in exponential buckets, a load that drifts and
bursts that hit both sides, errors as rare as 0.01 to 0.1 %. Each stage is 30 minutes, 10 % of the
traffic on the candidate.
"""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.venv import bench_python
from shared.domain.canary import Block, Side, Verdict, judge
from shared.domain.histogram import Histogram, merge
from shared.domain.policy import CanaryPolicy
from turnout.demo import ROOT

GROWTH, FINITE_BUCKETS = 1.4, 66
"""Exponential buckets from 1 ms on, as Google's latency metrics have them."""
BOUNDS = tuple(GROWTH**index for index in range(FINITE_BUCKETS))
MINUTES, BEFORE_MINUTES, CANDIDATE_SHARE = 30, 60, 0.1
MAX_ERROR_RATE, P95_RATIO = 0.01, 1.5
Z95 = 1.96


@dataclass(frozen=True)
class Scenario:
    """One kind of stage. `worse`: the judge ought to fail it; None: it cannot know.

    `per_minute` requests over both sides. From minute `begins` on the candidate fails
    `more_errors` (0-1) more and is `slower` times as slow for `slow_share` of its requests;
    with `burst_share` its one instance fails that share of one minute's requests.
    """

    name: str
    worse: bool | None
    per_minute: float = 3000.0
    more_errors: float = 0.0
    slower: float = 1.0
    slow_share: float = 1.0
    burst_share: float = 0.0
    begins: int = 0


SCENARIOS = (
    Scenario("equal, 50 requests/s", False),
    Scenario("equal, 5 requests/s", False, 300.0),
    Scenario("equal, 1 request/s", False, 60.0),
    Scenario("equal, errors in bursts of one instance", False, burst_share=0.3),
    Scenario("0.5 % more errors", True, more_errors=0.005),
    Scenario("1 % more errors", True, more_errors=0.01),
    Scenario("2 % more errors", True, more_errors=0.02),
    Scenario("5 % more errors", True, more_errors=0.05),
    Scenario("2 % more errors from minute 15 on", True, more_errors=0.02, begins=15),
    Scenario("2 % more errors, 5 requests/s", True, 300.0, more_errors=0.02),
    Scenario("all requests 3 times as slow", True, slower=3.0),
    Scenario("70 % of requests 3 times as slow", True, slower=3.0, slow_share=0.7),
    Scenario("10 % of requests 10 times as slow", True, slower=10.0, slow_share=0.1),
    Scenario("2 % of requests 10 times as slow (p95 unmoved)", None, slower=10.0, slow_share=0.02),
    Scenario("every request fails, 50 requests a minute", True, 50.0, more_errors=1.0),
    Scenario("1-5 requests a minute, equal", False, 3.0),
    Scenario("no traffic, equal", None, 0.0),
)


@dataclass(frozen=True)
class Outcome:
    """How one judge ended a stage: pass, fail or inconclusive, after how many minutes."""

    verdict: str
    minutes: int


@dataclass(frozen=True)
class Row:
    """Shares (0-1) of a scenario's stages, and the median minutes until a fail."""

    scenario: str
    worse: bool | None
    judge: str
    stages: int
    failed: float
    passed: float
    inconclusive: float
    median_minutes: float | None


class Traffic:
    """The blocks of one stage, minute by minute, with what is known of the hour before it."""

    def __init__(self, scenario: Scenario, random: np.random.Generator) -> None:
        self._scenario = scenario
        self._random = random
        self._base_errors = 10 ** random.uniform(-4, -3)
        self._median_ms = random.uniform(10, 80)
        self._spread = random.uniform(0.3, 0.7)
        self._phase = random.uniform(0, 2 * math.pi)
        self._crash = {
            "candidate": random.uniform(0, MINUTES),
            "live": random.uniform(0, MINUTES),
        }

    def before(self) -> Side:
        """The live side in the hour before the stage."""
        return total([self._side(minute, 1.0, "before") for minute in range(-BEFORE_MINUTES, 0)])

    def blocks(self) -> Iterator[Block]:
        """The stage's minutes."""
        for minute in range(MINUTES):
            # An error or a delay of what both sides ask (a feature store) hits both.
            self._storm = self._random.random() < 0.03
            yield Block(
                self._side(minute, CANDIDATE_SHARE, "candidate"),
                self._side(minute, 1 - CANDIDATE_SHARE, "live"),
            )

    _storm = False

    def _side(self, minute: int, share: float, side: str) -> Side:
        scenario, random = self._scenario, self._random
        drift = 1 + 0.5 * math.sin(self._phase + minute / 60)
        requests = int(random.poisson(scenario.per_minute * share * drift))
        error_rate = self._base_errors + (0.02 if self._storm else 0.0)
        if side == "candidate" and minute >= scenario.begins:
            error_rate = min(1.0, error_rate + scenario.more_errors)
        errors = int(random.binomial(requests, error_rate))
        # The candidate has one instance, the live side nine: a crash hits a ninth of it.
        if scenario.burst_share and abs(minute - self._crash.get(side, -99)) < 0.5:
            hit = requests if side == "candidate" else requests // 9
            errors = min(requests, errors + int(random.binomial(hit, scenario.burst_share)))
        return Side(requests, errors, self._latencies(requests, minute, side))

    def _latencies(self, requests: int, minute: int, side: str) -> Histogram | None:
        if not requests:
            return None
        random = self._random
        slower_hours = 1 + 0.3 * math.sin(self._phase + minute / 40)
        storm = 3.0 if self._storm else 1.0
        found = (
            self._median_ms
            * slower_hours
            * storm
            * np.exp(random.normal(0, self._spread, requests))
        )
        # One request in a hundred waits for something: a tail without a variance.
        found[random.random(requests) < 0.01] *= 1 + random.pareto(1.5)
        if side == "candidate" and minute >= self._scenario.begins:
            found[random.random(requests) < self._scenario.slow_share] *= self._scenario.slower
        counts = np.bincount(np.searchsorted(BOUNDS, found, "right"), minlength=1)
        return Histogram(requests, float(found.mean()), BOUNDS, tuple(int(c) for c in counts))


def total(sides: Sequence[Side]) -> Side:
    """Return the sum of several periods of one side."""
    measured = [one.latencies for one in sides if one.latencies]
    return Side(
        sum(one.requests for one in sides),
        sum(one.errors for one in sides),
        merge(measured) if measured else None,
    )


def by_evidence(blocks: Sequence[Block], before: Side, policy: CanaryPolicy) -> Outcome:
    """The product's judge, asked after every minute; the stage's last word counts."""
    verdict = Verdict.INCONCLUSIVE
    for minute in range(1, len(blocks) + 1):
        verdict = judge(blocks[:minute], before, True, policy).verdict
        if verdict is Verdict.FAIL:
            return Outcome("fail", minute)
    return Outcome(verdict.value, len(blocks))


def by_thresholds(blocks: Sequence[Block], *_: Any) -> Outcome:
    """Plain thresholds on everything since the stage began, asked after every minute."""
    candidate, live = Side(), Side()
    for minute, block in enumerate(blocks, 1):
        candidate, live = total([candidate, block.candidate]), total([live, block.live])
        failing = candidate.requests and candidate.errors / candidate.requests > MAX_ERROR_RATE
        slow = (
            candidate.latencies
            and live.latencies
            and candidate.latencies.percentile(95) > P95_RATIO * live.latencies.percentile(95)
        )
        if failing or slow:
            return Outcome("fail", minute)
    return Outcome("pass", len(blocks))


JUDGES = {"evidence": by_evidence, "thresholds": by_thresholds}


def row(scenario: Scenario, name: str, outcomes: Sequence[Outcome]) -> Row:
    """Return a judge's shares of what it said of a scenario's stages."""
    said = [one.verdict for one in outcomes]
    minutes = [one.minutes for one in outcomes if one.verdict == "fail"]
    return Row(
        scenario.name,
        scenario.worse,
        name,
        len(outcomes),
        *(said.count(verdict) / len(said) for verdict in ("fail", "pass", "inconclusive")),
        median_minutes=float(np.median(minutes)) if minutes else None,
    )


def show(rows: Sequence[Row]) -> Table:
    """Return the table for people."""
    table = Table("Stage", "Judge", "Fail", "Pass", "Inconclusive", "Minutes to fail")
    for one in rows:
        minutes = "" if one.median_minutes is None else f"{one.median_minutes:.0f}"
        shares = [f"{share:.1%}" for share in (one.failed, one.passed, one.inconclusive)]
        table.add_row(one.scenario, one.judge, *shares, minutes)
    return table


def interval(share: float, number: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson's), 0-1."""
    middle = (share + Z95**2 / (2 * number)) / (1 + Z95**2 / number)
    half = (
        Z95
        * math.sqrt(share * (1 - share) / number + Z95**2 / (4 * number**2))
        / (1 + Z95**2 / number)
    )
    return max(0.0, middle - half), min(1.0, middle + half)


def main(
    stages: Annotated[
        int, typer.Option(help="Stages of each kind; of equal candidates three times as many.")
    ] = 80,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the stages.")] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same stages.")] = 20261128,
    false_alarm: Annotated[
        float, typer.Option(help="The policy's: of equal candidates at most so many may fail.")
    ] = CanaryPolicy().false_alarm,
    minimum_requests: Annotated[
        int, typer.Option(help="The policy's: with fewer the judge says inconclusive.")
    ] = CanaryPolicy().minimum_requests,
    output: Annotated[Path, typer.Option(help="Where results and plot go.")] = ROOT / "benchmarks",
) -> None:
    """Judge simulated canary stages, and compare with plain thresholds.

    Every stage lasts half an hour with a tenth of the traffic on the candidate; both judges look at
    it after each minute. Of equal candidates the judge may fail one in a hundred (the policy's
    false_alarm); of worse ones it should fail nearly all, soon. Writes judge.json and judge.svg.

    python -m benchmarks.judge --quick            half a minute, rough
    python -m benchmarks.judge                    what docs/measurements.md shows
    python -m benchmarks.judge --false-alarm 0.1  a judge that is quicker to fail
    """
    number = max(1, stages // 10) if quick else stages
    policy = replace(CanaryPolicy(), false_alarm=false_alarm, minimum_requests=minimum_requests)
    console, began = Console(), time.monotonic()
    console.print(f"seed {seed}, {len(SCENARIOS)} kinds of stages")
    rows: list[Row] = []
    with Progress(console=console, transient=True) as progress:
        numbers = [number * (3 if one.worse is False else 1) for one in SCENARIOS]
        task = progress.add_task("judging", total=sum(numbers))
        for index, scenario in enumerate(SCENARIOS):
            outcomes: dict[str, list[Outcome]] = {name: [] for name in JUDGES}
            for stage in range(numbers[index]):
                traffic = Traffic(scenario, np.random.default_rng([seed, index, stage]))
                before, blocks = traffic.before(), list(traffic.blocks())
                for name, decide in JUDGES.items():
                    outcomes[name].append(decide(blocks, before, policy))
                progress.advance(task)
            rows += [row(scenario, name, outcomes[name]) for name in JUDGES]
    console.print(show(rows))
    results = output / "judge.json"
    found = {
        "seed": seed,
        "policy": {"false_alarm": false_alarm, "minimum_requests": minimum_requests},
        "rows": [
            {**asdict(one), "failed_interval": interval(one.failed, one.stages)} for one in rows
        ],
    }
    results.write_text(json.dumps(found, indent=1) + "\n")
    plot = [bench_python(), "-m", "benchmarks.plot_judge", str(results), str(output / "judge.svg")]
    subprocess.run(plot, cwd=ROOT, check=True)
    console.print(f"{time.monotonic() - began:.0f} s; see {results} and judge.svg beside it")


if __name__ == "__main__":
    typer.run(main)
