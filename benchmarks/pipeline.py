"""How long the local cloud takes to start, what it weighs idle, and where a deployment's time goes;
how fast a rollback is under load; and what one deployment is billed as.

`make bench` runs it. Times are wall clock on this machine, best read beside each other.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil
from google.cloud.workflows import executions_v1
from rich.progress import Progress

from benchmarks.costs import PRICES, price
from benchmarks.counted_deployment import Window, counts
from shared import wiring
from shared.config import WORKFLOW
from shared.domain.deployment import Deployment, Status, StepName
from shared.errors import NotFound
from turnout.calling import call
from turnout.demo import ROOT, SERVICE, step_seconds
from turnout.load import Load
from turnout.output import console, print_json, print_table
from turnout.target import choose

MODEL = "movies"
LIMIT_S = 300
CUSTOMERS = [str(number) for number in range(1, 672)]
CONNECTIONS, REQUESTS_PER_S = 8, 150.0
SETTLE_S = 2.0
# Locally schedules run at the full minute; what they read must not count as the deployment's.
QUIET_SECONDS = range(3, 45)


def main() -> None:
    """Run all measurements and print medians with their range."""
    parser = argparse.ArgumentParser(description=__doc__)
    quick = os.environ.get("QUICK", "") not in ("", "0")
    parser.add_argument(
        "--rounds",
        type=int,
        default=2 if quick else 5,
        help="deployments to time, all but the first followed by a rollback (5; with QUICK=1 2)",
    )
    parser.add_argument(
        "--starts",
        type=int,
        default=1 if quick else 3,
        help="starts of the local cloud to time (3; with QUICK=1 1)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    options = parser.parse_args()
    console.quiet = options.json
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as folder:
        found = measure(Path(folder), options.rounds, options.starts)
    if options.json:
        print_json(found)
        return
    rows = [
        [
            name,
            f"{median(values):.2f}",
            f"{min(values):.2f}",
            f"{max(values):.2f}",
            str(len(values)),
        ]
        for name, values in found.items()
    ]
    print_table("Measured", ["What", "Median ", "Lowest ", "Highest ", "Times "], rows)


def measure(folder: Path, rounds: int, starts: int) -> dict[str, list[float]]:
    """Return each figure's values: seconds, but megabytes where the name says MB."""
    found: dict[str, list[float]] = {}
    with Progress(console=console) as progress:
        task = progress.add_task("starting the local cloud", total=starts + 2 + rounds)
        for number in range(starts):
            name = "first start, s" if number == 0 else "start with data, s"
            with running_cloud(folder) as (process, took_s):
                found.setdefault(name, []).append(took_s)
                found.setdefault("idle memory (PSS, v0 running), MB", []).append(_pss_mb(process))
            progress.advance(task)
        with running_cloud(folder):
            choose(None, None, folder)
            progress.update(task, description="training")
            _train(folder)
            progress.advance(task)
            for number in range(rounds):
                progress.update(task, description=f"deployment {number + 1} of {rounds}")
                measured = _deploy(f"bench-{number}", folder)
                if number:
                    measured.update(_roll_back())
                for name, value in measured.items():
                    found.setdefault(name, []).append(value)
                progress.advance(task)
        progress.update(task, description="counting what a deployment is billed as")
        with running_cloud(folder, program=("benchmarks.counted_cloud", str(folder))):
            used = _count(folder)
        found.update({f"billed: {name}": [used[name]] for name in PRICES})
        found["billed: list price of one deployment, US cents"] = [price(used) * 100]
        progress.advance(task)
    return found


@contextmanager
def running_cloud(
    folder: Path, models: Path | None = None, program: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Run a local cloud in `folder`; gives its process and how long it took to start, in s.

    `program` is another module that runs one, with its arguments.
    """
    declared = ["--models", str(models)] if models else []
    program = program or ("turnout", "--data", str(folder), "up", *declared)
    ready = folder / "cloud.json"
    begun = time.monotonic()
    with (folder / "cloud.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *program],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        while not ready.exists():
            if process.poll() is not None or time.monotonic() - begun > LIMIT_S:
                raise RuntimeError((folder / "cloud.log").read_text()[-3000:])
            time.sleep(0.02)
        yield process, time.monotonic() - begun
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _pss_mb(process: subprocess.Popen[bytes]) -> float:
    """Sum what every process of the cloud uses, shared pages divided among their users."""
    root = psutil.Process(process.pid)
    tree = [root, *root.children(recursive=True)]
    return sum(getattr(one.memory_full_info(), "pss", one.memory_info().rss) for one in tree) / 1e6


def _train(folder: Path) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "examples.movielens", "--run", "1", "--settings", "small"),
            *("--output", str(folder / "training"), "--publish", "--when", "off"),
        ],
        cwd=ROOT,
        check=True,
        env=dict(os.environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _deploy(request_id: str, folder: Path) -> dict[str, float]:
    begun = time.monotonic()
    _publish(request_id, folder)
    command_s = time.monotonic() - begun
    deployment = _ended(f"{MODEL}-1-{request_id}")
    if deployment.status is not Status.ACTIVE:
        raise RuntimeError(f"{deployment.id} is {deployment.status}: {deployment.reason}")
    seconds = step_seconds(deployment)
    own = _container_start(folder, deployment)
    return {
        "publish command, s": command_s,
        **{f"step {name.value}, s": seconds[name.value] for name in StepName},
        "message to 100 %, s": seconds["all"],
        **own,
        "all but the container's start, s": seconds["all"] - own["container to healthy, s"],
    }


def _publish(request_id: str, folder: Path) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "turnout", "--data", str(folder), "publish", MODEL),
            *("--run", "1", "--strategy", "immediate", "--request-id", request_id),
        ],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _roll_back() -> dict[str, float]:
    """Ask for a rollback under load; the live version is the one that must answer no more."""
    leaving = wiring.state().model(MODEL).active or ""
    version = wiring.state().deployment(leaving).name
    key_id, key = wiring.keys().create(MODEL, "benchmark", "benchmark", 3600)
    load = Load(
        wiring.cloud_run().service(SERVICE).url, key, CUSTOMERS, CONNECTIONS, REQUESTS_PER_S
    )
    load.start()
    time.sleep(SETTLE_S)
    asked_at = time.time()
    call("roll_back", {"model_id": MODEL, "reason": "measured", "requested_by": "benchmark"})
    returned_at = time.time()
    time.sleep(SETTLE_S)
    answers = load.stop()
    wiring.keys().revoke(key_id)
    failed = [answer.failure for answer in answers if answer.failure]
    if failed:
        raise RuntimeError(f"{len(failed)} requests failed during a rollback, first: {failed[0]}")
    last = max(one.at + one.latency_ms / 1000 for one in answers if one.version == version)
    return {
        "rollback request to its answer, s": returned_at - asked_at,
        "rollback request to the last answer of the version left, s": last - asked_at,
        "requests while rolling back": len(answers),
    }


def _count(folder: Path) -> dict[str, float]:
    """Deploy once more, between two runs of the schedules, and see what that used."""
    while int(time.time()) % 60 not in QUIET_SECONDS:
        time.sleep(0.2)
    begin = time.time()
    _publish("bench-counted", folder)
    until = time.monotonic() + LIMIT_S
    # Asking Firestore whether it has ended would count too.
    while not (ended := _last_execution(begin)):
        if time.monotonic() > until:
            raise RuntimeError(f"the counted deployment did not end within {LIMIT_S} s")
        time.sleep(0.2)
    return counts(folder, Window(begin, time.time(), ended))


def _last_execution(since: float) -> str | None:
    """Return the id of the execution that began since then, once it has succeeded."""
    client = wiring.grpc_client(executions_v1.ExecutionsClient)
    parent = f"{wiring.settings().parent}/workflows/{WORKFLOW}"
    for execution in client.list_executions(parent=parent):
        if execution.start_time.timestamp() >= since:
            if execution.state.name == "SUCCEEDED":
                return str(execution.name.rsplit("/", 1)[-1])
            if execution.state.name != "ACTIVE":
                raise RuntimeError(f"the counted deployment failed: {execution.error}")
    return None


def _ended(deployment_id: str) -> Deployment:
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        try:
            deployment = wiring.state().deployment(deployment_id)
        except NotFound:
            deployment = None
        if deployment and deployment.status is not Status.DEPLOYING:
            return deployment
        time.sleep(0.05)
    raise RuntimeError(f"{deployment_id} did not end within {LIMIT_S} s")


def _container_start(folder: Path, deployment: Deployment) -> dict[str, float]:
    """Read from the container's own log how long it took until it listened and was healthy."""
    log = folder / "run" / "logs" / f"{deployment.cloud_run_revision}.log"
    lasted: dict[str, list[float]] = {}
    for line in log.read_text().splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            for field in ("listening_ms", "ready_ms"):
                if field in entry:
                    lasted.setdefault(entry["message"], []).append(entry[field] / 1000)
    # Each worker says so; the first one that listens answers, the last one completes the health.
    found = {
        "container to listening, s": min(lasted["listening"]),
        "container to healthy, s": max(lasted["healthy"]),
    }
    if "prepared answers served" in lasted:
        found["container to prepared answers, s"] = min(lasted["prepared answers served"])
    return found


if __name__ == "__main__":
    main()
