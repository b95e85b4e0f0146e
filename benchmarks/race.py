"""Runs the contestants in turn on the same cores, and keeps every sample."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from benchmarks import answers
from benchmarks.cloud import Cloud, running_services
from benchmarks.contestants import PREPARED, TENSORFLOW, Contestant, Server, Target
from benchmarks.load import Shape, send
from benchmarks.plan import CUSTOMERS, Plan, Size
from turnout.demo import ROOT
from turnout.output import console

MODELS = ROOT / "build" / "bench-models"
PREPARED_TOP_K = 10
# Less than this of one CPU, and a server may stay up while others are measured.
IDLE = 0.01
WARM_UP = Shape(64)
# How long things are expected to take, in s; only the time left that is shown depends on it.
START_S, WARM_S = 6.0, 1.0
LEAST_ANSWERS, LONGEST_S = 3, 60.0


@dataclass(frozen=True)
class Sample:
    """One measurement: `what` is "load", "batch", "start", "ready" or "memory".

    `value` is customers/s, s, s or MB; latencies in ms.
    """

    what: str
    contestant: str
    size: str
    connections: int
    turn: int
    value: float
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    errors: int = 0
    first_error: str = ""


@dataclass
class Outcome:
    """Everything measured and said in one run."""

    samples: list[Sample] = field(default_factory=list)
    compared: dict[str, answers.Compared] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write all samples, for whoever wants to look closer."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "samples": [asdict(sample) for sample in self.samples],
            "compared": {name: asdict(found) for name, found in self.compared.items()},
            "notes": self.notes,
        }
        path.write_text(json.dumps(content, indent=1))


class Race:
    """One run of a plan."""

    def __init__(
        self, plan: Plan, contestants: Sequence[Contestant], logs: Path, raw: Path
    ) -> None:
        self._plan, self._contestants = plan, list(contestants)
        self._logs, self._raw = logs, raw
        self.outcome = Outcome(notes=plan.notes())

    def run(self) -> Outcome:
        """Measure all sizes; what is measured is written as it comes."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(*columns, console=console) as self._progress:
            self._task = self._progress.add_task("", total=self._expected_s())
            with tempfile.TemporaryDirectory(prefix="turnout-bench-") as folder:
                work = Path(folder)
                with running_services(work) as cloud:
                    if self._plan.demo and any(one.from_bucket for one in self._contestants):
                        self._compare_demo(cloud, work)
                    for size in self._plan.sizes:
                        self._measure(size, cloud, work)
                        self.outcome.save(self._raw)
        return self.outcome

    def _measure(self, size: Size, cloud: Cloud, work: Path) -> None:
        target = self._target(size, cloud, work)
        for turn in range(self._plan.starts):
            for contestant in self._contestants:
                self._say(f"{size.title}: start {turn + 1} of {contestant.name}")
                self._time_start(contestant, size, target, cloud.key, turn)
        if self._plan.tune_s:
            self._tune(size, target, cloud.key)
        with self._all_up(size, target, cloud.key) as servers:
            self._compare(size, cloud, target, servers, work)
            for turn in range(self._plan.rounds):
                self._round(turn, size, target, cloud.key, servers)

    def _round(
        self, turn: int, size: Size, target: Target, key: str, servers: dict[str, Server]
    ) -> None:
        """Every way to ask, and in each every contestant after the other."""
        wanted = {one.name: dict(self._plan.shapes(one, size)) for one in self._contestants}
        cases = dict.fromkeys(case for shapes in wanted.values() for case in shapes)
        for case in cases:
            for contestant in self._contestants:
                shape = wanted[contestant.name].get(case)
                if shape is None:
                    continue
                self._say(f"{size.title}: round {turn + 1}, {case}, {contestant.name}")
                server = servers.get(contestant.name)
                if server is not None:
                    self._load(server, shape, size, target, key, turn)
                    continue
                with self._up(contestant, target, key) as server:
                    self._warm(server, target, key)
                    self._load(server, shape, size, target, key, turn)

    def _load(
        self, server: Server, shape: Shape, size: Size, target: Target, key: str, turn: int
    ) -> None:
        seconds, url = self._plan.seconds, server.url(shape.batch > 0)
        found = send(url, key, target.customers, shape, seconds, turn)
        while found.raw["answers"] < LEAST_ANSWERS and seconds < LONGEST_S:
            # So few answers say nothing; whoever is that slow is given the time.
            server.settle()
            seconds *= 4
            found = send(url, key, target.customers, shape, seconds, turn)
        server.settle()
        self.outcome.samples.append(
            Sample(
                "batch" if shape.batch else "load",
                server.contestant.name,
                size.title,
                shape.connections,
                turn,
                found.per_s,
                found.p50_ms,
                found.p95_ms,
                found.p99_ms,
                found.errors,
                found.first_error,
            )
        )
        self._advance(self._plan.seconds)

    def _time_start(
        self, contestant: Contestant, size: Size, target: Target, key: str, turn: int
    ) -> None:
        """Start it alone; then, with everything loaded and used, see what it weighs."""
        server = Server(contestant, target, key, self._logs)
        try:
            first_s = server.until_first_answer()
            ready_s = server.until_ready()
            self._warm(server, target, key)
            memory_mb = server.memory_mb()
        finally:
            server.stop()
        for what, value in (("start", first_s), ("ready", ready_s), ("memory", memory_mb)):
            self.outcome.samples.append(Sample(what, contestant.name, size.title, 0, turn, value))
        self._advance(START_S + 2 * WARM_S)

    def _tune(self, size: Size, target: Target, key: str) -> None:
        """Give each peer that has variants the one with the most answers at 64 connections."""
        for place, contestant in enumerate(self._contestants):
            if not contestant.variants:
                continue
            found = {}
            for number, settings in enumerate(contestant.variants):
                self._say(f"{size.title}: trying settings of {contestant.name}")
                with self._up(contestant.with_settings(settings), target, key) as server:
                    self._warm(server, target, key)
                    found[number] = send(
                        server.url(), key, target.customers, WARM_UP, self._plan.tune_s
                    ).per_s
                self._advance(START_S + WARM_S + self._plan.tune_s)
            best = contestant.variants[max(found, key=lambda number: found[number])]
            self._contestants[place] = contestant.with_settings(best)
            chosen = ", ".join(f"{name}={value}" for name, value in best.items())
            self.outcome.notes.append(f"{size.title}: {contestant.name} runs with {chosen}.")

    @contextmanager
    def _all_up(self, size: Size, target: Target, key: str) -> Iterator[dict[str, Server]]:
        """Start everybody who costs nothing while idle; the others are started for each turn."""
        servers: dict[str, Server] = {}
        try:
            for contestant in self._contestants:
                self._say(f"{size.title}: starting {contestant.name}")
                server = servers[contestant.name] = Server(contestant, target, key, self._logs)
                server.until_ready()
                self._warm(server, target, key)
            for name in list(servers):
                busy = servers[name].busy_when_idle(self._plan.idle_s)
                if busy >= IDLE:
                    servers.pop(name).stop()
                    self.outcome.notes.append(
                        f"{size.title}: {name} uses {busy:.1%} of a CPU when nobody asks, so it "
                        "was started anew for each turn."
                    )
            self._advance(len(self._contestants) * (START_S + WARM_S + self._plan.idle_s))
            yield servers
        finally:
            for server in servers.values():
                server.stop()

    @contextmanager
    def _up(self, contestant: Contestant, target: Target, key: str) -> Iterator[Server]:
        server = Server(contestant, target, key, self._logs)
        try:
            server.until_ready()
            yield server
        finally:
            server.stop()

    def _warm(self, server: Server, target: Target, key: str) -> None:
        """Ask for single customers and one batch, so that everything has been used once."""
        contestant = server.contestant
        shapes = (Shape(64, echo=False), Shape(1, 100, echo=False))
        for shape in shapes[: 1 if contestant.slow else 2]:
            send(server.url(shape.batch > 0), key, target.customers, shape, WARM_S)
        server.settle()

    def _target(self, size: Size, cloud: Cloud, work: Path) -> Target:
        self._say(f"{size.title}: building the model")
        folder = build_model(size.name, CUSTOMERS, size.products)
        customers = folder / "customers.txt"
        if size.prepared is not None:
            # Whoever has no prepared answer would be a measurement of the other path.
            customers = work / f"customers-{size.name}.txt"
            lines = (folder / "customers.txt").read_text().splitlines()
            customers.write_text("\n".join(lines[: size.prepared]) + "\n")
        probes = json.loads((folder / "probes.json").read_text())
        target = Target(folder, probes, customers)
        return self._publish(target, size.name, cloud, size.prepared)

    def _publish(self, target: Target, name: str, cloud: Cloud, prepared: int | None) -> Target:
        """Put the model into the bucket for those that run from there, once prepared."""
        names = {one.name for one in self._contestants}
        revisions = {}
        if TENSORFLOW in names:
            revisions[TENSORFLOW] = cloud.publish(target.folder, f"{name}-plain")
        if PREPARED in names:
            self._say(f"{name}: preparing answers")
            revision = cloud.publish(target.folder, f"{name}-prepared")
            revisions[PREPARED] = cloud.prepare(revision, PREPARED_TOP_K, prepared)
        return Target(target.folder, target.probes, target.customers, revisions)

    def _compare_demo(self, cloud: Cloud, work: Path) -> None:
        """All customers of the model that `make demo` deploys."""
        self._say("comparing all answers of the demo's model")
        folder = train_demo()
        asked = (folder / "customers.txt").read_text().split()
        expected = answers.truth(folder, asked, PREPARED_TOP_K, work)
        probes = {asked[0]: expected[1][0].tolist()}
        target = self._publish(
            Target(folder, probes, folder / "customers.txt"), "demo", cloud, None
        )
        for contestant in self._contestants:
            if contestant.from_bucket:
                with self._up(contestant, target, cloud.key) as server:
                    self.outcome.compared[f"{contestant.name}, demo"] = answers.compare(
                        server, asked, PREPARED_TOP_K, expected
                    )

    def _compare(
        self, size: Size, cloud: Cloud, target: Target, servers: dict[str, Server], work: Path
    ) -> None:
        """Some customers of a large one."""
        compared = [one for one in self._contestants if one.from_bucket]
        if not compared:
            return
        self._say(f"{size.title}: comparing answers")
        asked = answers.choose(target.customers.read_text().split(), self._plan.checked)
        expected = answers.truth(target.folder, asked, PREPARED_TOP_K, work)
        for contestant in compared:
            server = servers.get(contestant.name)
            if server is None:
                with self._up(contestant, target, cloud.key) as server:
                    found = answers.compare(server, asked, PREPARED_TOP_K, expected)
            else:
                found = answers.compare(server, asked, PREPARED_TOP_K, expected)
            self.outcome.compared[f"{contestant.name}, {size.title}"] = found

    def _expected_s(self) -> float:
        plan = self._plan
        total = 0.0
        for size in plan.sizes:
            shapes = sum(len(plan.shapes(one, size)) for one in self._contestants)
            total += plan.rounds * shapes * plan.seconds
            count = len(self._contestants)
            total += plan.starts * count * (START_S + 2 * WARM_S)
            total += count * (START_S + WARM_S + plan.idle_s)
            variants = sum(len(one.variants) for one in self._contestants)
            total += variants * (START_S + WARM_S + plan.tune_s) if plan.tune_s else 0
        return total

    def _say(self, what: str) -> None:
        self._progress.update(self._task, description=what)

    def _advance(self, seconds: float) -> None:
        self._progress.advance(self._task, seconds)


def build_model(name: str, customers: int, products: int) -> Path:
    """Return the folder of a model, built once: its numbers follow from its size."""
    folder = MODELS / name
    if not (folder / "probes.json").exists():
        subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.models", "build", folder),
                *("--customers", str(customers), "--products", str(products)),
            ],
            cwd=ROOT,
            check=True,
            stderr=subprocess.DEVNULL,
        )
    return folder


def train_demo() -> Path:
    """Return the folder of the demo's model, trained once."""
    folder = MODELS / "demo" / "run-1"
    if not (folder / "customers.txt").exists():
        subprocess.run(
            [
                *(sys.executable, "-m", "examples.movielens", "--run", "1"),
                *("--output", str(MODELS / "demo")),
            ],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
    return folder
