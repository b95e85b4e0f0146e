"""How long the local cloud takes to start, what it weighs idle, and where a deployment's time goes.

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.progress import Progress

from shared import wiring
from shared.domain.deployment import Deployment, Status, StepName
from shared.errors import NotFound
from turnout.demo import ROOT, step_seconds
from turnout.output import console, print_json, print_table
from turnout.target import choose

MODEL = "movies"
STARTS = 3
LIMIT_S = 300


def main() -> None:
    """Run all measurements and print medians with their range."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="deployments to time (default 5)")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    options = parser.parse_args()
    console.quiet = options.json
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as folder:
        found = measure(Path(folder), options.rounds)
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


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return each figure's values: seconds, but megabytes where the name says MB."""
    found: dict[str, list[float]] = {}
    with Progress(console=console) as progress:
        task = progress.add_task("starting the local cloud", total=STARTS + 1 + rounds)
        for number in range(STARTS):
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
                for name, value in _deploy(number, folder).items():
                    found.setdefault(name, []).append(value)
                progress.advance(task)
    return found


@contextmanager
def running_cloud(
    folder: Path, models: Path | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Run a local cloud in `folder`; gives its process and how long it took to start, in s."""
    declared = ["--models", str(models)] if models else []
    ready = folder / "cloud.json"
    begun = time.monotonic()
    with (folder / "cloud.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "turnout", "--data", str(folder), "up", *declared],
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


def _deploy(number: int, folder: Path) -> dict[str, float]:
    request_id = f"bench-{number}"
    begun = time.monotonic()
    subprocess.run(
        [
            *(sys.executable, "-m", "turnout", "--data", str(folder), "publish", MODEL),
            *("--run", "1", "--strategy", "immediate", "--request-id", request_id),
        ],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
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
    fields: dict[str, Any] = {}
    for line in log.read_text().splitlines():
        if line.startswith("{"):
            fields.update(json.loads(line))
    return {
        "container to listening, s": fields["listening_ms"] / 1000,
        "container to healthy, s": fields["healthy_ms"] / 1000,
    }


if __name__ == "__main__":
    main()
