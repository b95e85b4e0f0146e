"""The whole story on one machine: two trained models, a gradual rollout, a rollback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.rule import Rule

from shared import wiring
from shared.domain.deployment import Deployment, Status, StepName
from shared.domain.traffic import describe
from shared.errors import NotFound, PipelineError, Unavailable
from turnout.calling import call
from turnout.load import Answer, Load, plausible, versions
from turnout.output import console, print_json, print_table, share
from turnout.target import NotRunning, choose, local_environment
from turnout.watching import show

MODEL = "movies"
SERVICE = f"model-serving-{MODEL}"
ROOT = Path(__file__).parents[1]
CONNECTIONS, REQUESTS_PER_S = 8, 60.0
STEPS_PERCENT = (20, 100)
CANARY = {
    "warm_up_s": 0,
    "metrics_lag_s": 0,
    "minimum_requests": 200,
    "latency_ratio": 3,
    "inconclusive_for_s": 300,
    "on_inconclusive": "abort",
}
"""How the demo's one stage is judged: what is measured here is seen at once, so its first
minute is enough. Latencies are of a few ms, on a machine that does everything else too."""
STARTED_WITHIN_S = 180
HANDLED_WITHIN_S = 60
SETTLE_S = 0.5
"""Requests sent this close to a change of the split are counted with neither side."""
HELD_S = 8.0
"""How long the traffic is watched after the rollback, and after the last step."""


class DemoFailed(PipelineError):
    """Something that the demo promises did not happen."""

    code = "demo_failed"


@dataclass
class Story:
    """What happened, for the summary."""

    began: float = field(default_factory=time.monotonic)
    trained_s: dict[int, float] = field(default_factory=dict)
    deployed: list[Deployment] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    rollback: dict[str, Any] = field(default_factory=dict)
    judged: list[str] = field(default_factory=list)
    answers: Sequence[Answer] = ()
    wrong: list[str] = field(default_factory=list)


def run_demo(data: Path, bake_s: int, as_json: bool) -> int:
    """Run it in a fresh folder below `data`; return the exit code."""
    folder = data / "demo"
    console.quiet = as_json
    story = Story()
    with _fresh_cloud(folder):
        choose(None, None, folder)
        _chapter("1. Train a first model and publish it: it goes live at once")
        _train(story, folder, 1, "small", ["--strategy", "immediate"])
        story.deployed.append(_follow(f"{MODEL}-1-auto"))
        _chapter("2. Live prediction traffic, while a second model is trained and published")
        load = _start_load()
        watcher = SplitWatcher()
        over = f"{bake_s * (len(STEPS_PERCENT) - 1)}s"
        steps = ",".join(str(percent) for percent in STEPS_PERCENT)
        gradual = ["--strategy", "gradual", "--steps", steps, "--over", over]
        _train(story, folder, 2, "large", gradual)
        story.deployed.append(_follow(f"{MODEL}-2-auto"))
        events = wiring.state().events(f"{MODEL}-2-auto")
        story.judged = [event.reason for event in events if event.action == "judged"]
        console.print(f"The canary's judge: {'; '.join(story.judged)}", markup=False)
        time.sleep(HELD_S)
        _chapter("3. Something is wrong with it, says a person: roll back")
        begun = time.monotonic()
        story.rollback = call(
            "roll_back", {"model_id": MODEL, "reason": "the demo", "requested_by": "demo"}
        )
        story.rollback["seconds"] = time.monotonic() - begun
        console.print(f"{story.rollback['version']} has the traffic again")
        time.sleep(HELD_S)
        story.answers = load.stop()
        story.stages = watcher.stop(story.answers)
        _judge(story)
        history = wiring.state().deployments(MODEL)
    _summarise(story, history, folder, as_json)
    return 1 if story.wrong else 0


class SplitWatcher:
    """Notes each change of the split that Cloud Run serves, while requests are counted."""

    def __init__(self) -> None:
        self._changes: list[tuple[float, dict[str, int]]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """Return each stage: the split, and what the answers in its time counted up to."""
        self._ended.set()
        self._thread.join()
        ends = [at for at, _ in self._changes[1:]] + [time.time()]
        stages = []
        for (begin, split), end in zip(self._changes, ends, strict=True):
            within = [a for a in answers if begin + SETTLE_S <= a.at < end - SETTLE_S]
            by_version = {_version(name): percent for name, percent in split.items()}
            counts = versions(within)
            stages.append({"split": by_version, "seconds": end - begin, "answers": dict(counts)})
        return stages

    def _look(self) -> None:
        while True:
            split = dict(wiring.cloud_run().service(SERVICE).split)
            if not self._changes or split != self._changes[-1][1]:
                self._changes.append((time.time(), split))
            if self._ended.wait(0.1):
                return


@contextmanager
def _fresh_cloud(folder: Path) -> Iterator[None]:
    """A local cloud with nothing in it, stopped at the end; its data stay to be looked at."""
    try:
        local_environment(folder)
    except NotRunning:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        raise DemoFailed(f"a local cloud runs from {folder}; stop it and try again")
    folder.mkdir(parents=True)
    for name in [name for name in os.environ if name.startswith("TURNOUT_")]:
        del os.environ[name]  # a project that was set outside is not the demo's
    log = folder / "cloud.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "turnout", "--data", str(folder)),
                *("up", "--models", str(_declare(folder))),
            ],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches the demo, which stops the cloud in order.
            start_new_session=True,
        )
    try:
        begun = time.monotonic()
        with console.status("Starting the local cloud"):
            while not (folder / "cloud.json").exists():
                if process.poll() is not None or time.monotonic() - begun > STARTED_WITHIN_S:
                    raise DemoFailed(f"the local cloud did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.1)
        console.print(f"The local cloud is up ({time.monotonic() - begun:.1f} s).")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _declare(folder: Path) -> Path:
    """Write the declared model with the demo's own judge; return the file."""
    declared = json.loads((ROOT / "terraform" / "models.auto.tfvars.json").read_text())
    model = declared["models"][MODEL]
    model["policy"] = {**model["policy"], "canary": CANARY}
    path = folder / "models.json"
    path.write_text(json.dumps({"models": {MODEL: model}}))
    return path


def _train(story: Story, folder: Path, run: int, settings: str, deploy: list[str]) -> None:
    begun = time.monotonic()
    trained = subprocess.run(
        [
            *(sys.executable, "-m", "examples.movielens", "--run", str(run)),
            *("--settings", settings, "--output", str(folder / "training"), "--publish"),
            *("--when", "if_better", "--requested-by", "demo", *deploy),
        ],
        cwd=ROOT,
        check=False,
        stdout=subprocess.DEVNULL if console.quiet else None,
    )
    if trained.returncode:
        raise DemoFailed(f"training run {run} ended with {trained.returncode}; see above")
    story.trained_s[run] = time.monotonic() - begun


def _follow(deployment_id: str) -> Deployment:
    until = time.monotonic() + HANDLED_WITHIN_S
    while True:
        try:
            wiring.state().deployment(deployment_id)
            break
        except NotFound:
            if time.monotonic() > until:
                decisions = [run.get("decisions") for run in wiring.state().runs(MODEL)]
                raise DemoFailed(f"{deployment_id} was not deployed: {decisions}") from None
            time.sleep(0.2)
    deployment = show(wiring.state(), deployment_id)
    if deployment.status is not Status.ACTIVE:
        raise DemoFailed(f"{deployment_id} is {deployment.status}: {deployment.reason}")
    return deployment


def _start_load() -> Load:
    _, key = wiring.keys().create(MODEL, "demo", "demo", 3600)
    url = wiring.cloud_run().service(SERVICE).url
    customers = [str(number) for number in range(1, 672)]
    load = Load(url, key, customers, CONNECTIONS, REQUESTS_PER_S)
    load.start()
    until = time.monotonic() + 30
    while not load.answers:
        if time.monotonic() > until:
            raise Unavailable(f"{url} did not answer one request in 30 s")
        time.sleep(0.05)
    return load


def _judge(story: Story) -> None:
    failed = [answer for answer in story.answers if answer.failure]
    if failed:
        story.wrong.append(f"{len(failed)} requests failed, first: {failed[0].failure}")
    if not story.judged or not story.judged[-1].startswith("pass"):
        story.wrong.append(f"the canary's judge said {story.judged}, expected a pass")
    expected = [{"v1": 100}, *({"v1": 100 - p, "v2": p} for p in STEPS_PERCENT[:-1])]
    expected += [{"v2": 100}, {"v1": 100}]
    seen = [stage["split"] for stage in story.stages]
    if seen != expected:
        story.wrong.append(f"the split went {seen}, expected {expected}")
    for stage in story.stages:
        total = sum(stage["answers"].values())
        for version, percent in stage["split"].items():
            if not total or not plausible(stage["answers"].get(version, 0), total, percent):
                story.wrong.append(f"{stage['answers']} does not fit a split of {stage['split']}")
    served = {version for stage in story.stages for version in stage["answers"]}
    if served - {"v1", "v2"}:
        story.wrong.append(f"versions that should not have answered: {sorted(served)}")


def _summarise(story: Story, history: list[Deployment], folder: Path, as_json: bool) -> None:
    latencies = sorted(answer.latency_ms for answer in story.answers)
    failed = sum(1 for answer in story.answers if answer.failure)
    took_s = time.monotonic() - story.began
    if as_json:
        print_json(
            {
                "ok": not story.wrong,
                "wrong": story.wrong,
                "seconds": took_s,
                "trained_seconds": story.trained_s,
                "requests": len(story.answers),
                "failed": failed,
                "stages": story.stages,
                "judged": story.judged,
                "rollback": story.rollback,
                "steps_seconds": {one.name: step_seconds(one) for one in story.deployed},
                "history": history,
            }
        )
        return
    _chapter("What happened")
    print_table(
        "Traffic, as it was split and as the answers counted",
        ["Split", "Seconds ", "Answers ", "Observed"],
        [
            [
                describe(stage["split"]),
                f"{stage['seconds']:.1f}",
                str(sum(stage["answers"].values())),
                _observed(stage["answers"]),
            ]
            for stage in story.stages
        ],
    )
    print_table(
        "From the message to 100 %, seconds by step",
        ["Version", *(name.replace("_", " ") + " " for name in step_seconds(story.deployed[0]))],
        [[one.name, *(f"{s:.1f}" for s in step_seconds(one).values())] for one in story.deployed],
    )
    print_table(
        "Versions",
        ["Version", "Run ", "Status", "R@100 ", "Reason"],
        [
            [one.name, str(one.training_run), one.status, share(one.recall_at_100), one.reason]
            for one in history
        ],
    )
    console.print(
        f"{len(story.answers)} prediction requests, [bold]{failed} failed[/]; "
        f"p50 {_quantile(latencies, 0.5):.0f} ms, p99 {_quantile(latencies, 0.99):.0f} ms. "
        f"Rollback took {story.rollback['seconds']:.2f} s. All of it took {took_s:.0f} s.",
        highlight=False,
    )
    for line in story.wrong:
        console.print(f"WRONG: {line}", style="bold red", markup=False)
    console.print(
        f"Look around: `turnout --data {folder} up`, then `turnout --data {folder} deployments`."
        if not story.wrong
        else f"The logs are below {folder}.",
        highlight=False,
    )


def step_seconds(deployment: Deployment) -> dict[str, float]:
    """Return how long each step lasted, and `all` from the message to the last of them."""
    lasted = {
        name.value: (step.ended_at - step.started_at).total_seconds()
        for name in StepName
        if (step := deployment.steps.get(name.value)) and step.started_at and step.ended_at
    }
    if deployment.deployed_at:
        lasted["all"] = (deployment.deployed_at - deployment.created_at).total_seconds()
    return lasted


def _observed(answers: dict[str, int]) -> str:
    total = sum(answers.values()) or 1
    return ", ".join(
        f"{version}: {count} ({count / total:.1%})" for version, count in sorted(answers.items())
    )


def _version(revision: str) -> str:
    """`model-serving-movies-v2-1` → `v2`."""
    return revision.removeprefix(f"{SERVICE}-").split("-")[0]


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def _chapter(title: str) -> None:
    console.print()
    console.print(Rule(title, align="left", style="cyan"))
