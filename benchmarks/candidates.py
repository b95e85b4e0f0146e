"""`python -m benchmarks.candidates`: twelve candidates under load, each to be caught in time.

A local cloud of its own runs a few models side by side. Each has a good first version live, and
wrk asks for its customers all the time at a steady rate. Then one candidate after the other is
rolled out gradually (10, 50, 100 %), guarded by the policy that any model may have: skew and
concentration gated, both stages judged against the live version, and no agreement by anybody.

Each candidate has one thing wrong, and the last one nothing. Told of each: which part stopped it,
at which share of traffic, how many requests of users it reached before that, how many of them
failed, and how long it took from the message to the end of the rollout.

Exit code 1 when one was not caught, or by another part than the one that is meant to, or when the
good one did not pass or cost a request.

Examples: all of it, some 15 minutes; two of them; a rollout judged for longer.

    python -m benchmarks.candidates --save
    python -m benchmarks.candidates --only errors --only good
    python -m benchmarks.candidates --bake-s 300 --fails-after-s 330 --only later
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from google.cloud import storage
from rich.progress import Progress

from benchmarks.candidate_models import METRICS
from benchmarks.faults import CANDIDATES, FIRST, SECOND, Candidate, Load, Part
from benchmarks.faulty_serving import FAULT_FILE
from benchmarks.load import Shape, check_wrk, send
from benchmarks.pipeline import CUSTOMERS, running_cloud
from benchmarks.users import Audience, Seen, Users
from examples.movielens.upload import upload_artifact
from shared import wiring
from shared.config import TRAINING_TOPIC
from shared.domain.deployment import Deployment, Status, StepName, StepState
from shared.errors import NotFound
from turnout.demo import ROOT
from turnout.output import console, print_json, print_table
from turnout.target import choose

IMAGE = "turnout-serving-with-faults"
RESULTS = Path(__file__).with_name("candidates.json")
GOLDEN = ["15", "73", "213", "452", "547"]
STARTUP_TIMEOUT_S = 60
BLOCK_S = 60
"""Monitoring's shortest period; by one alone the judge calls nobody worse."""
LOOK_S, SETTLE_S, POLL_S = 5.0, 2.0, 0.25
ENDS_WITHIN_S = 900.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class NotAsWanted(RuntimeError):
    """Something that the measurement stands on did not happen."""


@dataclass(frozen=True)
class Found:
    """What became of a candidate. `reached` and `failed` count requests of users."""

    name: str
    what: str
    caught_by: str
    expected: str
    as_expected: bool
    percent: int
    reached: int
    failed: int
    requests: int
    seconds: float
    reason: str
    first_failure: str
    judgement: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    rate: float
    bake_s: int
    later_s: float


class Lane:
    """One model with its users, on which candidates are tried one after the other."""

    def __init__(self, number: int, folder: Path, options: Options, stop: threading.Event) -> None:
        self.model_id = f"lane-{number}"
        self._folder = folder
        self._options = options
        self._stop = stop
        self._runs = 0
        self._audience: Audience

    def begin(self) -> None:
        """Make the first version live."""
        run = self._publish("good", {}, "begin", gradual=False)
        first, _ = self._follow(run)
        if first.status is not Status.ACTIVE:
            raise NotAsWanted(f"{first.id} is {first.status}: {first.reason}")
        _, key = wiring.keys().create(self.model_id, "benchmark", "benchmark", 24 * 3600)
        url = wiring.cloud_run().service(first.config.service).url
        customers = self._folder / "customers.txt"
        self._audience = Audience(url, key, customers, self._options.rate, connections=128)

    def attempt(self, candidate: Candidate) -> Found:
        """Roll a candidate out while the users ask, and say what became of it."""
        trace = self._folder / f"{self.model_id}-{candidate.name}.trace"
        fault = candidate.settings(self._look())
        with Users(self._audience, trace) as users:
            begun = time.monotonic()
            run = self._publish(candidate.model, fault, candidate.name, gradual=True)
            ended, percent = self._follow(run)
            took_s = time.monotonic() - begun
            # What was in flight ends, and whatever the end of the rollout cost is seen.
            time.sleep(SETTLE_S)
        return _found(candidate, ended, percent, users.seen, took_s)

    def _look(self) -> Load:
        """See how quick the live version is just now."""
        asked, options = self._audience, self._options
        shape = Shape(16, rate=asked.rate)
        seen = send(f"{asked.url}/recommend", asked.key, asked.customers, shape, LOOK_S)
        return Load(asked.rate, options.bake_s, options.later_s, seen.p95_ms)

    def _follow(self, deployment_id: str) -> tuple[Deployment, int]:
        """Return a deployment once it has ended, and the largest share of traffic it had."""
        until = time.monotonic() + ENDS_WITHIN_S
        percent = 0
        while time.monotonic() < until and not self._stop.wait(POLL_S):
            try:
                deployment = wiring.state().deployment(deployment_id)
            except NotFound:
                continue
            if deployment.status is Status.ACTIVE:
                return deployment, 100
            if deployment.status is not Status.DEPLOYING:
                return deployment, percent
            percent = max(percent, deployment.traffic_percent)
        raise NotAsWanted(f"{deployment_id} did not end within {ENDS_WITHIN_S:g} s, or was left")

    def _publish(self, kind: str, fault: dict[str, Any], name: str, *, gradual: bool) -> str:
        """Upload the artifacts and publish the message as training does; the deployment's id."""
        self._runs += 1
        folder = self._folder / "runs" / f"{self.model_id}-{self._runs}"
        shutil.copytree(self._folder / "models" / kind, folder)
        metrics = json.loads((folder / METRICS).read_text())
        (folder / METRICS).unlink()
        if fault:
            (folder / FAULT_FILE).write_text(json.dumps(fault))
        settings = wiring.settings()
        bucket = sorted(settings.training_buckets)[0]
        client = storage.Client(project=settings.project)
        uri = upload_artifact(client, folder, bucket, f"{self.model_id}/run-{self._runs}")
        deploy: dict[str, Any] = {"when": "always", "strategy": "immediate", "request_id": name}
        if gradual:
            steps = [FIRST, SECOND, 100]
            over = f"{self._options.bake_s * (len(steps) - 1)}s"
            deploy |= {"strategy": "gradual", "steps_percent": steps, "over": over}
        message = {
            "schema_version": 1,
            "model_id": self.model_id,
            "run_number": self._runs,
            "artifact_uri": uri,
            "feature_config": {"id": kind, "name": name},
            "dataset": {"name": "MovieLens latest-small", "version": 1},
            "metrics": metrics,
            "completed_at": datetime.now(UTC).isoformat(),
            "deploy": deploy,
        }
        wiring.topic(TRAINING_TOPIC).publish(json.dumps(message).encode(), {})
        return f"{self.model_id}-{self._runs}-{name}"


@app.command(help=__doc__)
def main(
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only this candidate; may be repeated. Names are in the table."),
    ] = None,
    lanes: Annotated[int, typer.Option(min=1, max=6, help="Models tried at a time.")] = 3,
    rate: Annotated[float, typer.Option(min=20, help="Requests/s of each model's users.")] = 120,
    bake_s: Annotated[
        int, typer.Option(min=BLOCK_S + 5, help="How long a stage bakes, s; judged by minutes.")
    ] = 125,
    fails_after_s: Annotated[
        float | None,
        typer.Option(help="When `later` fails, s after its first user; in the second stage."),
    ] = None,
    save: Annotated[bool, typer.Option(help=f"Write {RESULTS.name} beside this program.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Try the candidates and print what became of each."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    check_wrk()
    console.quiet = as_json
    chosen = _chosen(only)
    options = Options(rate, bake_s, fails_after_s or 1.6 * bake_s)
    found = run(chosen, min(lanes, len(chosen)), options)
    if save:
        _save(found, options)
    if as_json:
        print_json(found)
    else:
        _print(found)
    raise typer.Exit(not all(one.as_expected for one in found))


def _chosen(only: list[str] | None) -> list[Candidate]:
    known = {one.name: one for one in CANDIDATES}
    if unknown := set(only or ()) - set(known):
        raise typer.BadParameter(f"no candidate {sorted(unknown)}; there are {', '.join(known)}")
    return [one for one in CANDIDATES if not only or one.name in only]


def run(chosen: Sequence[Candidate], lanes: int, options: Options) -> list[Found]:
    """Try the candidates on so many models at a time, the longest first; in the given order."""
    waiting: queue.SimpleQueue[Candidate] = queue.SimpleQueue()
    for one in sorted(chosen, key=lambda one: -one.stages):
        waiting.put(one)
    found: dict[str, Found] = {}
    with (
        tempfile.TemporaryDirectory(prefix="turnout-bench-") as name,
        Progress(console=console) as progress,
    ):
        folder = Path(name)
        task = progress.add_task("training the models", total=1 + lanes + len(chosen))
        models = _prepare(folder, lanes)
        progress.advance(task)
        program = ("benchmarks.busy_cloud", str(folder), str(models))
        with running_cloud(folder, program=program):
            choose(None, None, folder)
            stop = threading.Event()
            begun = [Lane(number, folder, options, stop) for number in range(1, lanes + 1)]
            progress.update(task, description="first versions")
            for lane in begun:
                lane.begin()
                progress.advance(task)
            progress.update(task, description="candidates")

            def work(lane: Lane) -> None:
                while not stop.is_set():
                    try:
                        candidate = waiting.get_nowait()
                    except queue.Empty:
                        return
                    found[candidate.name] = lane.attempt(candidate)
                    console.print(_line(found[candidate.name]), highlight=False, markup=False)
                    progress.advance(task)

            with ThreadPoolExecutor(lanes) as pool:
                try:
                    for done in [pool.submit(work, lane) for lane in begun]:
                        done.result()
                finally:
                    stop.set()
    return [found[one.name] for one in chosen]


def _prepare(folder: Path, lanes: int) -> Path:
    """Write the models, the customers, the image and the declaration; return the last one."""
    subprocess.run(
        [sys.executable, "-m", "benchmarks.candidate_models", str(folder / "models")],
        cwd=ROOT,
        check=True,
        env=dict(os.environ),
        stdout=subprocess.DEVNULL,
    )
    (folder / "customers.txt").write_text("\n".join(CUSTOMERS))
    image = {"command": [sys.executable, "-m", "benchmarks.faulty_serving"]}
    (folder / "images.json").write_text(json.dumps({IMAGE: image}))
    declared = {
        "image": IMAGE,
        "service_account": "serving",
        "memory": "2Gi",
        "min_instances": 1,
        "startup_timeout_s": STARTUP_TIMEOUT_S,
        "golden_customers": GOLDEN,
        "policy": {
            "canary": {
                "judge": "gate",
                # What the front door measured is there at once, unlike Cloud Monitoring's.
                "warm_up_s": 0,
                "metrics_lag_s": 0,
                "inconclusive_for_s": 120,
                "on_inconclusive": "abort",
            },
            "skew": {"check": "gate", "maximum_concentration": 0.95},
            "hold": {"limit_s": 60},
        },
    }
    models = folder / "models.json"
    names = [f"lane-{number}" for number in range(1, lanes + 1)]
    models.write_text(json.dumps({"models": dict.fromkeys(names, declared)}))
    return models


def _found(
    candidate: Candidate, ended: Deployment, percent: int, seen: Seen, took_s: float
) -> Found:
    part = _part(ended)
    # Only the candidate can fail: nothing is wrong with the version beside it.
    unnamed = sum(not answer.version for answer in seen.answers) + seen.broken
    right = part in candidate.caught_by and percent in candidate.percents
    if part is Part.PASSED or percent == 0:
        # Nobody may have been failed: neither by what is well, nor by what was never shown.
        right = right and seen.failed == 0
    return Found(
        name=candidate.name,
        what=candidate.what,
        caught_by=part.value,
        expected=" or ".join(candidate.caught_by),
        as_expected=right,
        percent=percent,
        reached=seen.versions()[ended.name] + unnamed,
        failed=seen.failed,
        requests=seen.requests,
        seconds=took_s,
        # Where the local cloud keeps its logs is of no use to a reader.
        reason=ended.reason.replace(f"{tempfile.gettempdir()}/", ""),
        first_failure=seen.first_failure,
        judgement=dict(ended.judgement),
    )


def _part(ended: Deployment) -> Part:
    """Return what ended the rollout, from its record."""
    if ended.status is Status.ACTIVE:
        return Part.PASSED
    failed = {name for name, step in ended.steps.items() if step.state is StepState.FAILED}
    if StepName.DEPLOY_REVISION.value in failed:
        return Part.STARTUP
    if StepName.HEALTH_CHECKS.value in failed:
        return Part.SKEW if ended.skew else Part.HEALTH
    if ended.judgement.get("verdict") == "fail":
        return Part.LATENCY if "p95 is" in str(ended.judgement["why"]) else Part.ERRORS
    return Part.OTHER


def _save(found: Sequence[Found], options: Options) -> None:
    """Write what was found; what is known of candidates that were not tried stays."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known |= {one.name: asdict(one) | {"options": asdict(options)} for one in found}
    kept = {one.name: known[one.name] for one in CANDIDATES if one.name in known}
    RESULTS.write_text(json.dumps(kept, default=str, indent=2) + "\n")


def _line(found: Found) -> str:
    said = "as expected" if found.as_expected else f"EXPECTED {found.expected}"
    return f"{found.name}: {found.caught_by} at {found.percent} %, {said}: {found.reason[:300]}"


def _print(found: Sequence[Found]) -> None:
    columns = ["Candidate", "Stopped by", "At ", "Reached ", "Failed ", "Of ", "Seconds "]
    rows = [
        [
            f"{one.name}: {one.what}",
            one.caught_by if one.as_expected else f"{one.caught_by}, EXPECTED {one.expected}",
            f"{one.percent} %",
            f"{one.reached:,}",
            f"{one.failed:,}",
            f"{one.requests:,}",
            f"{one.seconds:.0f}",
        ]
        for one in found
    ]
    print_table("Candidates", columns, rows)


if __name__ == "__main__":
    app()
