"""`python -m benchmarks.rollback`: how fast a bad version answers nobody any more.

In a local cloud of its own one trained model is deployed twice, and wrk asks it all the time at a
steady rate. Then it is rolled back again and again: from the version that has all the traffic,
and from one that has half of it in the middle of a rollout. With each, how long from the request
until the version left behind answered for the last time (requests in flight may finish), and how
many calls of Cloud Run's API it took, counted at the server.

The check (is the version to go back to healthy?) is left out, as with `turnout rollback
--no-check`; some more with it are counted by themselves.

Exit code 1 when a request failed, or when a rollback without the check took other calls than two
reads and one write.

Example: python -m benchmarks.rollback --runs 10 --midway 2 --checked 2
"""

from __future__ import annotations

import json
import math
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from benchmarks.busy_cloud import CALLS
from benchmarks.endings import Ending, Endings, undecided_models
from benchmarks.load import check_wrk
from benchmarks.moves import World, deployed_twice
from benchmarks.pipeline import MODEL, QUIET_SECONDS, running_cloud
from benchmarks.users import Audience, Seen, Users
from shared import wiring
from turnout.output import console, print_json, print_table
from turnout.target import choose

RESULTS = Path(__file__).with_name("rollback.json")
READS, WRITES = ("GetService", "GetRevision", "ListRevisions"), ("UpdateService",)
WANTED_CALLS = {"reads": 2, "writes": 1}
SETTLE_S = 1.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(
    runs: Annotated[int, typer.Option(min=0, help="Rollbacks of all traffic.")] = 80,
    midway: Annotated[int, typer.Option(min=0, help="Rollbacks in the middle of a rollout.")] = 20,
    checked: Annotated[int, typer.Option(min=0, help="Rollbacks of all traffic, checked.")] = 20,
    rate: Annotated[float, typer.Option(min=20, help="Requests/s all the time.")] = 300,
    save: Annotated[bool, typer.Option(help=f"Write {RESULTS.name} beside this program.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Roll back, and print how long it took and what it called."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    check_wrk()
    console.quiet = as_json
    with (
        tempfile.TemporaryDirectory(prefix="turnout-bench-") as name,
        Progress(console=console) as progress,
    ):
        folder = Path(name)
        preparing = progress.add_task("training, deploying twice", total=3)
        program = ("benchmarks.busy_cloud", str(folder), str(undecided_models(folder)))
        with running_cloud(folder, program=program) as (process, _):
            choose(None, None, folder)
            world = deployed_twice(folder, process.pid, lambda: progress.advance(preparing))
            parts = {
                "all traffic": (runs, lambda: _leave_live(world, check=False)),
                "all traffic, checked": (checked, lambda: _leave_live(world, check=True)),
                "midway": (midway, _leave_midway),
            }
            found = {
                part: _measure(world, part, times, one, rate, folder, progress)
                for part, (times, one) in parts.items()
                if times
            }
    unchecked = [part for part in ("all traffic", "midway") if part in found]
    found["without the check"] = _together([found[part] for part in unchecked])
    if save:
        RESULTS.write_text(json.dumps({"rate": rate, "rollbacks": found}) + "\n")
    if as_json:
        print_json(found)
    else:
        _print(found)
    wrong = any(found[part]["unlike_wanted"] for part in unchecked)
    raise typer.Exit(wrong or any(one["failed"] for one in found.values()))


def _leave_live(world: World, *, check: bool) -> Ending:
    """Go from the live version to the other one, by its number: either may be asked back."""
    active = wiring.state().deployment(wiring.state().model(MODEL).active or "")
    other = next(one for one in world.versions if one.id != active.id)
    return Endings(run_number=1).leave(active.name, to=other.version, check=check)


def _leave_midway() -> Ending:
    return Endings(run_number=1).roll_back_midway(50, check=False)


def _measure(
    world: World,
    part: str,
    times: int,
    one: Callable[[], Ending],
    rate: float,
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    task = progress.add_task(part, total=times)
    ends: list[Ending] = []
    audience = Audience(world.url, world.key, world.customers, rate)
    with Users(audience, folder / "rollbacks.trace") as users:
        for _ in range(times):
            # Schedules run at the full minute, and what they call must not count.
            while int(time.time()) % 60 not in QUIET_SECONDS:
                time.sleep(0.2)
            ends.append(one())
            time.sleep(SETTLE_S)
            progress.advance(task)
    return _figures(ends, users.seen, _calls(folder, ends))


def _figures(ends: Sequence[Ending], seen: Seen, calls: Sequence[Counter[str]]) -> dict[str, Any]:
    last_s = []
    for number, end in enumerate(ends):
        # The version may be asked back later: only what is before the next request is its last.
        to = ends[number + 1].asked_at if number + 1 < len(ends) else math.inf
        last = seen.last(end.left, since=0.0, to=to)
        last_s.append(round((last or end.asked_at) - end.asked_at, 4))
    counted = [
        {
            "reads": sum(each[name] for name in READS),
            "writes": sum(each[name] for name in WRITES),
        }
        for each in calls
    ]
    return {
        "rollbacks": len(ends),
        "requests": seen.requests,
        "failed": seen.failed,
        "first_failure": seen.first_failure,
        "last_answer_s": last_s,
        "answered_s": [round(end.answered_at - end.asked_at, 4) for end in ends],
        "calls": [{"times": times, "calls": dict(kind)} for kind, times in _grouped(calls)],
        "unlike_wanted": sum(one != WANTED_CALLS for one in counted),
    }


def _grouped(calls: Sequence[Counter[str]]) -> list[tuple[tuple[tuple[str, int], ...], int]]:
    return Counter(tuple(sorted(each.items())) for each in calls).most_common()


def _calls(folder: Path, ends: Sequence[Ending]) -> list[Counter[str]]:
    """Count the methods that were called between each request and its answer."""
    lines = [json.loads(line) for line in (folder / CALLS).read_text().splitlines()]
    return [
        Counter(
            str(line["method"])
            for line in lines
            if end.asked_unix <= line["at"] <= end.answered_unix
        )
        for end in ends
    ]


def _together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of all rollbacks without the check."""
    summed = {
        name: sum(part[name] for part in parts)
        for name in ("rollbacks", "requests", "failed", "unlike_wanted")
    }
    joined = {
        name: [value for part in parts for value in part[name]]
        for name in ("last_answer_s", "answered_s", "calls")
    }
    first = next((part["first_failure"] for part in parts if part["first_failure"]), "")
    return summed | joined | {"first_failure": first}


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` (0-1) of them do not exceed; 0 of none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def _print(found: dict[str, dict[str, Any]]) -> None:
    columns = ["Rollbacks", "Times ", "Last answer: p50, s ", "p99, s ", "Its answer: p50, s "]
    columns += ["p99, s ", "Requests ", "Failed "]
    rows = [
        [
            part,
            str(one["rollbacks"]),
            *(f"{quantile(one['last_answer_s'], share):.3f}" for share in (0.5, 0.99)),
            *(f"{quantile(one['answered_s'], share):.3f}" for share in (0.5, 0.99)),
            f"{one['requests']:,}",
            str(one["failed"]),
        ]
        for part, one in found.items()
    ]
    print_table("From the request, under load", columns, rows)
    for part, one in found.items():
        for each in one["calls"] if part != "without the check" else ():
            said = ", ".join(f"{times} {method}" for method, times in each["calls"].items())
            console.print(f"{part}, {each['times']} times: {said}", highlight=False)
    for line in dict.fromkeys(one["first_failure"] for one in found.values()):
        if line:
            console.print(f"WRONG: {line}", style="bold red", markup=False)


if __name__ == "__main__":
    app()
