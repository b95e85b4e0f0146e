"""`python -m benchmarks.serving`: this container against other ways to serve the same model."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import report
from benchmarks.contestants import FLASK, contestants
from benchmarks.load import check_wrk
from benchmarks.plan import SIZES, Plan
from benchmarks.race import Race
from benchmarks.venv import bench_python
from turnout.demo import ROOT
from turnout.output import console

HERE = Path(__file__).parent
RESULTS, PLOT = HERE / "results.json", HERE / "results.svg"
LOGS, RAW = ROOT / "build" / "bench-logs", ROOT / "build" / "bench-samples.json"
NAMES = [contestant.name for contestant in contestants("python")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def quick_asked() -> bool:
    """Return whether QUICK is set to anything but 0."""
    return os.environ.get("QUICK", "") not in ("", "0")


@app.command()
def main(
    size: Annotated[
        list[str] | None,
        typer.Option(help=f"Products of the model: {', '.join(SIZES)}; may be repeated."),
    ] = None,
    contestant: Annotated[
        list[str] | None,
        typer.Option(help=f"Who takes part beside {FLASK}: {', '.join(NAMES)}; may be repeated."),
    ] = None,
    connections: Annotated[
        list[int] | None,
        typer.Option(help="Connections that ask for one customer each; may be repeated."),
    ] = None,
    batches: Annotated[
        bool, typer.Option(help="Also ask for 1,000 customers at once, from 4 connections.")
    ] = True,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Turns of everybody in every way; 5, quick 2.")
    ] = None,
    seconds: Annotated[
        int | None, typer.Option(min=1, help="How long each turn lasts; 10, quick 1.")
    ] = None,
    starts: Annotated[
        int | None, typer.Option(min=0, help="Cold starts of everybody; 5, quick 1.")
    ] = None,
    tune: Annotated[
        bool | None,
        typer.Option(help="Try settings of the peers first and take the best; quick: no."),
    ] = None,
    quick: Annotated[
        bool | None,
        typer.Option(help="Fewer and shorter turns, 10k products only; also QUICK=1."),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Where the results go; the plot goes beside them.")
    ] = RESULTS,
) -> None:
    """Measure this container's two paths against plain Flask, a loop, LitServe and an empty server.

    Everybody serves the same model on the same cores, one after the other (A B A B ...), while
    wrk asks from the same machine and looks at every answer. Ratios are to plain Flask in the
    same turn, so what slows the machine down slows both down. Everything: some two hours
    (25 minutes for a size); --quick: under five minutes.

    \b
    A first look:          python -m benchmarks.serving --quick
    One question:          python -m benchmarks.serving --size 100k --connections 64 \\
                             --contestant turnout-tensorflow --no-batches --starts 0
    """
    check_wrk()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the servers are stopped
    quick = quick_asked() if quick is None else quick
    unknown = {*(size or [])} - {*SIZES} or {*(contestant or [])} - {*NAMES}
    if unknown:
        raise typer.BadParameter(f"there is no {', '.join(sorted(unknown))}")
    tune = not quick if tune is None else tune
    plan = Plan(
        sizes=tuple(SIZES[name] for name in size or (["10k"] if quick else SIZES)),
        connections=tuple(connections or ([16, 64] if quick else [1, 16, 64])),
        rounds=rounds or (2 if quick else 5),
        seconds=seconds or (1 if quick else 10),
        starts=(1 if quick else 5) if starts is None else starts,
        checked=1_000 if quick else 10_000,
        tune_s=3 if tune else 0,
        idle_s=1 if quick else 2,
        batch_connections=4 if batches else 0,
        demo=not quick,
    )
    console.print("Installing the peers (once) ..." if not _installed() else "", end="")
    python = bench_python()
    taking_part = [
        one for one in contestants(python) if not contestant or one.name in {FLASK, *contestant}
    ]
    outcome = Race(plan, taking_part, LOGS, RAW).run()
    found = report.results(outcome.samples)
    report.write(found, output)
    report.show(outcome, found)
    plot = output.with_suffix(".svg")
    subprocess.run([python, "-m", "benchmarks.plot", output, plot], cwd=ROOT, check=True)
    console.print(f"Written: {output}, {plot}; every sample: {RAW}; logs: {LOGS}")
    wrong = sum(sample.errors for sample in outcome.samples)
    wrong += sum(len(compared.wrong) for compared in outcome.compared.values())
    if wrong:
        console.print(f"[red]{wrong} answers were wrong or missing[/]")
        raise typer.Exit(1)


def _installed() -> bool:
    from benchmarks.venv import FOLDER

    return (FOLDER / "ready").exists()


if __name__ == "__main__":
    app()
