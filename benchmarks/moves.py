"""`python -m benchmarks.moves`: not one request may fail while versions and instances change.

One trained model is deployed twice in a local cloud of its own, and wrk asks the service's URL all
the time. First traffic goes back and forth between the two versions, by the pipeline's own
rollback and through 50/50 in between. Then the live version's instance is stopped with SIGTERM
again and again, as Cloud Run stops one: what is in flight is finished, and whoever comes later
waits for the next instance. At last whole rollouts are published, in turn: one that ends at 100 %,
a rollback (of that version, or of another in the middle of its rollout), and one that is cancelled
in the middle. After a rollback or a cancel it is noted when the version left behind answered for
the last time.

Every answer is looked at (load.lua). Exit code 1 when one request failed, when a version did not
answer as the split says, or when wrk ended before all changes were made (give it more seconds).
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import psutil
import requests
import typer
from rich.progress import Progress

from benchmarks.endings import Ending, Endings, NotReached, undecided_models
from benchmarks.load import Measured, Shape, check_wrk, send
from benchmarks.pipeline import CUSTOMERS, MODEL, running_cloud
from benchmarks.users import Audience, Users
from functions.steps import APPLIED_WITHIN_S
from shared import wiring
from shared.domain.deployment import Deployment
from turnout.calling import call
from turnout.demo import ROOT, SERVICE
from turnout.output import console, print_json, print_table
from turnout.target import choose

VERSIONS = 2
REPLACED_WITHIN_S = 60
# So many answers of a split in halves name both versions, but for one time in 10^18.
ASKED_AT_LEAST, ASKED_AT_MOST = 5, 60
TEXTS = ("part", "first_failure", "wrong", "endings")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class NotAsWanted(RuntimeError):
    """A deployment, a split or an instance did not become what it had to."""


@dataclass(frozen=True)
class World:
    """A local cloud with both versions deployed, and how to ask its service."""

    cloud: psutil.Process
    url: str
    key: str
    customers: Path
    versions: tuple[Deployment, ...]


@dataclass(frozen=True)
class Part:
    """What is changed under load: `change(number)` makes one change and waits until it holds."""

    name: str
    times: int
    change: Callable[[int], None]


@app.command(help=__doc__)
def main(
    moves: Annotated[int, typer.Option(min=0, help="How often all traffic changes sides.")] = 50,
    stops: Annotated[int, typer.Option(min=0, help="How often an instance gets SIGTERM.")] = 10,
    endings: Annotated[
        int, typer.Option(min=0, help="How many rollouts, rollbacks and cancels, in turn.")
    ] = 50,
    seconds: Annotated[int, typer.Option(min=5, help="How long wrk asks in each part.")] = 90,
    connections: Annotated[int, typer.Option(min=1, help="Connections that wrk keeps busy.")] = 16,
    rate: Annotated[float, typer.Option(min=1, help="Requests/s all through the rollouts.")] = 300,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Run all parts and print what failed, which is to be nothing."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    check_wrk()
    console.quiet = as_json
    with (
        tempfile.TemporaryDirectory(prefix="turnout-bench-") as name,
        Progress(console=console) as progress,
    ):
        folder = Path(name)
        preparing = progress.add_task("training, deploying twice", total=VERSIONS + 1)
        program = ("benchmarks.busy_cloud", str(folder), str(undecided_models(folder)))
        with running_cloud(folder, program=program) as (process, _):
            choose(None, None, folder)
            world = deployed_twice(folder, process.pid, lambda: progress.advance(preparing))
            parts = (
                Part("moves of all traffic", moves, lambda number: _move(world, number)),
                Part("instances stopped", stops, lambda _: _replace_instance(world)),
            )
            found = [
                _under_load(world, part, Shape(connections), seconds, progress)
                for part in parts
                if part.times
            ]
            if endings:
                found.append(_through_endings(world, endings, rate, folder, progress))
    if as_json:
        print_json(found)
    else:
        _print(found)
    raise typer.Exit(any(one["failed"] or one["wrong"] for one in found))


def deployed_twice(folder: Path, pid: int, advance: Callable[[], None]) -> World:
    """Train once and deploy that run as v1 and v2; both keep an instance, being tagged."""
    output = ("--output", str(folder / "training"), "--publish", "--when", "off")
    _run("examples.movielens", "--run", "1", "--settings", "small", *output)
    advance()
    for number in range(1, VERSIONS + 1):
        request = ("--strategy", "immediate", "--request-id", f"moves-{number}", "--watch")
        _run("turnout", "--data", str(folder), "publish", MODEL, "--run", "1", *request)
        advance()
    customers = folder / "customers.txt"
    customers.write_text("\n".join(CUSTOMERS))
    _, key = wiring.keys().create(MODEL, "benchmark", "benchmark", 24 * 3600)
    versions = sorted(wiring.state().deployments(MODEL), key=lambda one: one.version)
    url = wiring.cloud_run().service(SERVICE).url
    return World(psutil.Process(pid), url, key, customers, tuple(versions))


def _run(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NotAsWanted(f"{' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def _under_load(
    world: World, part: Part, shape: Shape, seconds: int, progress: Progress
) -> dict[str, Any]:
    """Make the part's changes, spread over the time for which wrk asks; return what it saw."""
    task = progress.add_task(part.name, total=part.times)
    took_s, wrong = [], []
    with ThreadPoolExecutor(1) as pool:
        url = f"{world.url}/recommend"
        load = pool.submit(send, url, world.key, world.customers, shape, seconds)
        begun = time.monotonic()
        for number in range(part.times):
            # One pause is before the first change and one after the last.
            due = begun + (number + 1) * seconds / (part.times + 2)
            time.sleep(max(0.0, due - time.monotonic()))
            changing = time.monotonic()
            try:
                part.change(number)
            except NotAsWanted as error:
                wrong.append(str(error))
                break
            if load.done():
                wrong.append(f"wrk ended before {part.times} {part.name}: give it more --seconds")
                break
            took_s.append(time.monotonic() - changing)
            progress.advance(task)
        return _figures(part, took_s, load.result(), wrong)


def _through_endings(
    world: World, times: int, rate: float, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Publish, finish, roll back and cancel while users ask; return what they saw."""
    task = progress.add_task("rollouts, rollbacks and cancels", total=times)
    endings = Endings(run_number=1)
    kinds = itertools.cycle(
        [
            endings.finish,
            endings.roll_back_live,
            lambda: endings.cancel(10),
            endings.finish,
            lambda: endings.roll_back_midway(50),
            lambda: endings.cancel(50),
        ]
    )
    done: list[Ending] = []
    wrong: list[str] = []
    audience = Audience(world.url, world.key, world.customers, rate)
    with Users(audience, folder / "endings.trace") as users:
        for end in itertools.islice(kinds, times):
            try:
                done.append(end())
                _see(world, {done[-1].serves})
            except (NotAsWanted, NotReached) as error:
                wrong.append(str(error))
                break
            progress.advance(task)
    seen, raw = users.seen, users.seen.raw
    left = [one for one in done if one.asked_at]
    after = [one.last_answer_after_s(seen) for one in left]
    return {
        "part": "rollouts, rollbacks, cancels",
        "changes": len(done),
        "slowest_change_s": max((one.answered_at - one.asked_at for one in left), default=0.0),
        "requests": seen.requests,
        "socket_errors": raw["socket_errors"],
        "timeouts": raw["timeouts"],
        "non_2xx": raw["non_2xx"],
        "wrong_answers": raw["wrong"] + raw["refused"] - raw["non_2xx"],
        "failed": seen.failed,
        "first_failure": seen.first_failure,
        "p50_ms": raw["p50_ms"],
        "p99_ms": raw["p99_ms"],
        "slowest_ms": raw["max_ms"],
        "wrong": wrong,
        "endings": [
            {"kind": kind, "times": times}
            | _last_answers(
                [late for one, late in zip(left, after, strict=True) if one.kind == kind]
            )
            for kind, times in Counter(one.kind for one in done).items()
        ],
    }


def _last_answers(after: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return when versions left behind answered last, after the request and after the answer."""
    if not after:
        return {}
    since_request, since_answer = zip(*after, strict=True)
    return {
        "after_request_p50_s": median(since_request),
        "after_request_max_s": max(since_request),
        "after_answer_p50_s": median(since_answer),
        "after_answer_max_s": max(since_answer),
    }


def _move(world: World, number: int) -> None:
    """Move all traffic to the version that has none: v1 first, half of it on the way."""
    target = world.versions[number % VERSIONS]
    _split_in_halves(world.versions)
    _see(world, {one.name for one in world.versions})
    # It answers once `traffic_statuses` shows the split.
    call("roll_back", {"model_id": MODEL, "version": target.version, "reason": "measured"})
    _see(world, {target.name})


def _split_in_halves(versions: Iterable[Deployment]) -> None:
    """Write the split as every step does, and wait until `traffic_statuses` shows it."""
    halves = {one.cloud_run_revision: 100 // VERSIONS for one in versions}
    services = wiring.cloud_run()
    seen = services.service(SERVICE)
    services.write_traffic(seen, halves, seen.tags, wiring.state().model(MODEL).token)
    until = time.monotonic() + APPLIED_WITHIN_S
    while (served := dict(services.service(SERVICE).split)) != halves:
        if time.monotonic() > until:
            raise NotAsWanted(f"{served} is served instead of {halves}")
        time.sleep(0.05)


def _see(world: World, wanted: set[str]) -> None:
    """Ask until every wanted version has answered; NotAsWanted if another one does."""
    seen: set[str] = set()
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {world.key}"
        for number in range(1, ASKED_AT_MOST + 1):
            body = {"customer_id": CUSTOMERS[0], "top_k": 1}
            answer = session.post(f"{world.url}/recommend", json=body, timeout=60)
            if not answer.ok:
                raise NotAsWanted(f"a second client got {answer.status_code}: {answer.text[:300]}")
            seen.add(json.loads(answer.content)["model_version"])
            if seen >= wanted and number >= ASKED_AT_LEAST:
                break
    if seen != wanted:
        raise NotAsWanted(f"{sorted(seen)} answered where the split says {sorted(wanted)}")


def _replace_instance(world: World) -> None:
    """Have the live version's instance stopped, and wait until another one answers."""
    (revision,) = wiring.cloud_run().service(SERVICE).split
    stopped = _instances(world, revision)
    world.cloud.send_signal(signal.SIGUSR1)
    until = time.monotonic() + REPLACED_WITHIN_S
    while any(process.is_running() for process in stopped) or not _instances(world, revision):
        if time.monotonic() > until:
            raise NotAsWanted(f"{revision} had no new instance within {REPLACED_WITHIN_S} s")
        time.sleep(0.1)
    version = next(one.name for one in world.versions if one.cloud_run_revision == revision)
    _see(world, {version})


def _instances(world: World, revision: str) -> list[psutil.Process]:
    """Return the first processes of the revision's containers."""
    found = []
    for process in world.cloud.children():
        try:
            if process.environ().get("K_REVISION") == revision:
                found.append(process)
        except psutil.Error:  # ended meanwhile
            continue
    return found


def _figures(
    part: Part, took_s: list[float], measured: Measured, wrong: list[str]
) -> dict[str, Any]:
    raw = measured.raw
    return {
        "part": part.name,
        "changes": len(took_s),
        "slowest_change_s": max(took_s, default=0.0),
        "requests": raw["answers"],
        "socket_errors": raw["socket_errors"],
        "timeouts": raw["timeouts"],
        "non_2xx": raw["non_2xx"],
        # load.lua counts an answer that is not 2xx as a wrong one too.
        "wrong_answers": raw["wrong"] - raw["non_2xx"],
        "failed": measured.errors,
        "first_failure": measured.first_error,
        "p50_ms": measured.p50_ms,
        "p99_ms": measured.p99_ms,
        "slowest_ms": raw["max_ms"],
        "wrong": wrong,
    }


def _print(found: list[dict[str, Any]]) -> None:
    names = [name for name in found[0] if name not in TEXTS] if found else []
    rows = [[name.replace("_", " "), *(_text(one[name]) for one in found)] for name in names]
    print_table("Under load", ["What", *(f"{one['part']} " for one in found)], rows)
    for ending in [ending for one in found for ending in one.get("endings", ())]:
        console.print(_sentence(ending), highlight=False)
    for line in [line for one in found for line in (one["first_failure"], *one["wrong"]) if line]:
        console.print(f"WRONG: {line}", style="bold red", markup=False)


def _sentence(ending: dict[str, Any]) -> str:
    """Return one kind of ending in words."""
    said = f"{ending['kind']}: {ending['times']} times"
    if "after_answer_max_s" not in ending:
        return said
    return (
        f"{said}; the version left behind answered last {ending['after_request_p50_s']:.3f} s "
        f"after the request (median; at most {ending['after_request_max_s']:.3f} s), "
        f"{ending['after_answer_p50_s']:+.3f} s from its answer "
        f"(at most {ending['after_answer_max_s']:+.3f} s)"
    )


def _text(value: float) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    app()
