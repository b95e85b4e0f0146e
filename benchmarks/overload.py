"""`python -m benchmarks.overload`: twice what it can answer, for a minute, and what remains.

The load is wrk again, made open by load.lua: a schedule says when the next request is due, and the
next free one of many connections sends it, however long earlier answers take. It runs on the same
cores, so it takes CPU from what it measures, as everything here does. A second client asks ten
times a second on connections of its own, before, during and after, and sees what a caller sees.
"""

from __future__ import annotations

import http.client
import json
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks.cloud import running_services
from benchmarks.contestants import PREPARED, TENSORFLOW, Server, Target, contestants
from benchmarks.load import Measured, Shape, send
from benchmarks.plan import CUSTOMERS, SIZES
from benchmarks.race import PREPARED_TOP_K, build_model
from benchmarks.serving import LOGS, quick_asked
from localcloud.ports import HOST
from turnout.output import console, print_json, print_table

TIMES_TOO_MUCH = 2
BEFORE_S, AFTER_S, PROBE_EVERY_S = 5.0, 10.0, 0.1
# Recovered: from here on so many probes in a row are answered, none slower than in quiet times.
IN_A_ROW, AS_QUICK = 10, 3.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Probe:
    """One request of the second client; `status` 0 is none at all."""

    at: float
    status: int
    latency_ms: float


class Prober:
    """Asks at a steady pace, one request on a connection of its own each time."""

    def __init__(self, port: int, key: str, customer: str) -> None:
        self._port, self._key = port, key
        self._body = json.dumps({"customer_id": customer, "top_k": 10})
        self._ended = threading.Event()
        self.probes: list[Probe] = []
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(2)]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[Probe]:
        """Stop, and return all probes in the order of sending."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        return sorted(self.probes, key=lambda probe: probe.at)

    def _ask(self) -> None:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        while not self._ended.wait(PROBE_EVERY_S * len(self._threads)):
            at, status = time.monotonic(), 0
            connection = http.client.HTTPConnection(HOST, self._port, timeout=30)
            with suppress(OSError, http.client.HTTPException):
                connection.request("POST", "/recommend", self._body, headers)
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            connection.close()
            self.probes.append(Probe(at, status, (time.monotonic() - at) * 1000))


@app.command()
def main(
    path: Annotated[
        list[str] | None,
        typer.Option(help=f"{TENSORFLOW} or {PREPARED}; may be repeated. Both without it."),
    ] = None,
    size: Annotated[str, typer.Option(help=f"Products: {', '.join(SIZES)}.")] = "10k",
    seconds: Annotated[
        int | None, typer.Option(min=5, help="How long the overload lasts; 60, quick 10.")
    ] = None,
    connections: Annotated[
        int, typer.Option(help="Connections that the open load may use at a time.")
    ] = 1_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Offer twice what the container can answer; see its throughput, its refusals, its recovery."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console.quiet = as_json
    lasting = seconds or (10 if quick_asked() else 60)
    found = {}
    with (
        tempfile.TemporaryDirectory(prefix="turnout-bench-") as folder,
        running_services(Path(folder)) as cloud,
    ):
        model = build_model(size, CUSTOMERS, SIZES[size].products)
        probes = json.loads((model / "probes.json").read_text())
        revision = cloud.publish(model, size)
        for contestant in contestants("python"):
            if contestant.name not in (path or (TENSORFLOW, PREPARED)):
                continue
            if contestant.name == PREPARED:
                console.print("preparing answers ...")
                revision = cloud.prepare(revision, PREPARED_TOP_K, SIZES[size].prepared)
            target = Target(model, probes, model / "customers.txt", {contestant.name: revision})
            server = Server(contestant, target, cloud.key, LOGS)
            try:
                server.until_ready()
                found[contestant.name] = overload(server, target, cloud.key, lasting, connections)
            finally:
                server.stop()
    if as_json:
        print_json(found)
        return
    for name, figures in found.items():
        rows = [[what, _text(value)] for what, value in figures.items()]
        print_table(f"{name}, {size} products, {lasting} s of overload", ["What", "Found "], rows)


def overload(
    server: Server, target: Target, key: str, seconds: int, connections: int
) -> dict[str, Any]:
    """Return capacity, goodput, refusals, recovery and memory of one server."""
    console.print(f"{server.contestant.name}: what it can do ...")
    send(server.url(), key, target.customers, Shape(64), 2)
    capacity = send(server.url(), key, target.customers, Shape(64), 5).per_s
    server.settle()
    memory_before = server.memory_mb()
    prober = Prober(server.port, key, next(iter(target.probes)))
    prober.start()
    time.sleep(BEFORE_S)
    console.print(f"{server.contestant.name}: {TIMES_TOO_MUCH} x {capacity:,.0f} requests/s ...")
    rate = TIMES_TOO_MUCH * capacity
    begun = time.monotonic()
    loaded = send(server.url(), key, target.customers, Shape(connections, rate=rate), seconds)
    ended = time.monotonic()
    memory_during = server.memory_mb()
    time.sleep(AFTER_S)
    probes = prober.stop()
    return _figures(capacity, loaded, probes, begun, ended) | {
        "memory before, MB": memory_before,
        "memory at the end of it, MB": memory_during,
        "memory after, MB": server.memory_mb(),
    }


def _figures(
    capacity: float, loaded: Measured, probes: Sequence[Probe], begun: float, ended: float
) -> dict[str, Any]:
    raw = loaded.raw
    # The last second is not a whole one, and the first has the connections to make.
    goodput = raw["good_by_second"][1:-1] or raw["good_by_second"]
    quiet = [probe.latency_ms for probe in probes if probe.at < begun]
    during = [probe for probe in probes if begun <= probe.at < ended]
    refused = [probe.latency_ms for probe in during if probe.status == 503]
    served = [probe.latency_ms for probe in during if probe.status == 200]
    return {
        "capacity, requests/s": capacity,
        "offered, requests/s": (raw["answers"] + raw["lost"]) / raw["seconds"],
        "sent, requests/s": raw["answers"] / raw["seconds"],
        "answered, requests/s": raw["right"] / raw["seconds"],
        "answered, share of capacity": raw["right"] / raw["seconds"] / capacity,
        "answered in the worst second": min(goodput, default=0),
        "answered in the best second": max(goodput, default=0),
        "refused with 503, requests/s": raw["refused"] / raw["seconds"],
        "neither answered nor refused": loaded.errors,
        "first of those": loaded.first_error,
        "latency of all, p99, ms": loaded.p99_ms,
        "probe before: median, ms": _median(quiet),
        "probe refused: how often": len(refused),
        "probe refused: median, ms": _median(refused),
        "probe refused: slowest, ms": max(refused, default=None),
        "probe answered: median, ms": _median(served),
        "probe lost": sum(probe.status not in (200, 503) for probe in probes),
        "recovered after, s": _recovery_s(probes, ended, _median(quiet)),
        "answered by second": raw["good_by_second"],
        "refused by second": raw["refused_by_second"],
    }


def _recovery_s(probes: Sequence[Probe], ended: float, quiet_ms: float | None) -> float | None:
    """Return how long after the overload all is as before; None if it never was."""
    after = [probe for probe in probes if probe.at >= ended]
    well = [
        probe.status == 200 and probe.latency_ms <= AS_QUICK * (quiet_ms or 0) + 5
        for probe in after
    ]
    for place in range(len(after) - IN_A_ROW + 1):
        if all(well[place : place + IN_A_ROW]):
            return after[place].at - ended
    return None


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(one) for one in value)
    if isinstance(value, float):
        return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
    return "-" if value in (None, "") else str(value)


if __name__ == "__main__":
    app()
