"""Sends requests with wrk and reads what it measured; load.lua looks at every answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("load.lua")
TOP_K = 10
# The slowest contestant is allowed to be that slow; whoever is slower counts as an error.
TIMEOUT_S = 120
_PREFIX = "RESULT "


class LoadFailed(RuntimeError):
    """wrk is missing or did not run."""


@dataclass(frozen=True)
class Shape:
    """How requests are made: `batch` customers each (0: one, at /recommend), from `connections`.

    `echo` expects the asked customer in each answer. `rate` offers that many requests/s whether
    or not they are answered in time; 0 sends the next one when an answer has come.
    """

    connections: int
    batch: int = 0
    echo: bool = True
    rate: float = 0.0


@dataclass(frozen=True)
class Measured:
    """What one run of wrk saw; `per_s` counts customers, right answers only; times in ms."""

    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    errors: int
    first_error: str
    raw: dict[str, Any]


def check_wrk() -> None:
    """Raise LoadFailed where wrk is not installed."""
    if shutil.which("wrk") is None:
        raise LoadFailed("the load comes from wrk: apt-get install wrk")


def send(
    url: str, key: str, customers: Path, shape: Shape, seconds: float, seed: int = 1
) -> Measured:
    """Load `url` (with its path) for that long and return what came back."""
    check_wrk()
    environment = {
        "BENCH_CUSTOMERS": str(customers),
        "BENCH_SEED": str(seed),
        "BENCH_KEY": key,
        "BENCH_TOP_K": str(TOP_K),
        "BENCH_BATCH": str(shape.batch),
        "BENCH_ECHO": str(int(shape.echo)),
        "BENCH_RATE": str(shape.rate),
    }
    # One thread, the same for every contestant; it can send several times what any answers.
    command = ["wrk", "--threads", "1", "--connections", str(shape.connections)]
    command += ["--duration", f"{max(1, round(seconds))}s", "--timeout", f"{TIMEOUT_S}s"]
    done = subprocess.run(
        [*command, "--latency", "--script", str(SCRIPT), url],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(_PREFIX)]
    if done.returncode or not lines:
        raise LoadFailed(f"wrk ended with {done.returncode}: {done.stdout}{done.stderr}")
    return _measured(json.loads(lines[-1].removeprefix(_PREFIX)), shape)


def _measured(raw: dict[str, Any], shape: Shape) -> Measured:
    seen = raw["right"] / raw["seconds"]
    if 0 < raw["right"] < 20 * shape.connections and not shape.rate:
        # What is under way when the time ends is not seen, which matters where answers are few.
        # Each connection is always waiting for one answer, so the rate follows from the time.
        seen = shape.connections / (raw["mean_ms"] / 1000) * raw["right"] / raw["answers"]
    errors = raw["wrong"] + raw["socket_errors"] + raw["timeouts"]
    return Measured(
        seen * max(1, shape.batch),
        raw["p50_ms"],
        raw["p95_ms"],
        raw["p99_ms"],
        errors + (0 if shape.rate else raw["refused"]),
        raw["first_wrong"],
        raw,
    )
