"""A deployment followed live: one bar for all, one line for each step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from shared.domain.deployment import Deployment, Status, Step, StepName, StepState
from shared.domain.estimate import progress
from shared.gcp.firestore import FirestoreState
from turnout.output import console, harmless

POLL_S = 0.5
TITLES = {
    StepName.COPY_ARTIFACTS: "Copy the model's artifacts to the serving bucket",
    StepName.PREPARE_MODEL: "Check the model and prepare its answers",
    StepName.CONFIGURE_SERVICE: "Update the Cloud Run service's configuration",
    StepName.DEPLOY_REVISION: "Deploy the new revision",
    StepName.HEALTH_CHECKS: "Run health checks",
    StepName.SWITCH_TRAFFIC: "Switch traffic",
}
MARKS = {
    StepState.PENDING: ("·", "dim"),
    StepState.RUNNING: ("▶", "bold cyan"),
    StepState.DONE: ("✓", "green"),
    StepState.FAILED: ("✗", "bold red"),
}


def follow(state: FirestoreState, deployment_id: str) -> Iterator[Deployment]:
    """Yield the deployment now and whenever it changed, until its rollout has ended."""
    last = None
    while True:
        deployment = state.deployment(deployment_id)
        if deployment != last:
            yield deployment
            last = deployment
        if deployment.status is not Status.DEPLOYING:
            return
        time.sleep(POLL_S)


def show(state: FirestoreState, deployment_id: str) -> Deployment:
    """Draw the deployment until its rollout has ended; return it as it then is.

    On a terminal it is redrawn in place; elsewhere each change of a step is a line.
    """
    earlier = state.deployments(state.deployment(deployment_id).model_id)
    if not console.is_terminal:
        return _print_changes(state, deployment_id)
    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
    )
    task = bar.add_task("", total=1.0, left="")
    with Live(console=console, refresh_per_second=4) as live:
        while True:
            deployment = state.deployment(deployment_id)
            share, left_s = progress(deployment, earlier, datetime.now(UTC))
            bar.update(
                task,
                completed=share,
                description=f"{deployment.model_id} {deployment.name} {deployment.status.value}",
                left=f"about {_span(left_s)} left" if left_s else "",
            )
            live.update(Group(bar, *_lines(deployment)))
            if deployment.status is not Status.DEPLOYING:
                return deployment
            time.sleep(POLL_S)


def _print_changes(state: FirestoreState, deployment_id: str) -> Deployment:
    said: set[str] = set()
    for deployment in follow(state, deployment_id):
        for line in _lines(deployment):
            if line.plain not in said and not line.plain.startswith("·"):
                console.print(line.plain, highlight=False, markup=False, soft_wrap=True)
                said.add(line.plain)
    return deployment


def _lines(deployment: Deployment) -> list[Text]:
    lines = []
    if deployment.waiting:
        lines.append(Text("▶ Waiting for another rollout of this model to end", "bold cyan"))
    for name in StepName:
        step = deployment.steps.get(name.value, Step())
        mark, style = MARKS[step.state]
        lines.append(Text(f"{mark} {TITLES[name]}{_took(step)}", style))
        if about := step.error or step.detail:
            lines[-1].append(f": {harmless(about)}", "red" if step.error else "dim")
    if deployment.status not in (Status.DEPLOYING, Status.ACTIVE):
        # One that was live and was replaced since did arrive.
        mark, style = ("-", "dim") if deployment.deployed_at else MARKS[StepState.FAILED]
        why = harmless(deployment.reason)
        lines.append(Text(f"{mark} {deployment.status.value}: {why}", style))
    return lines


def _took(step: Step) -> str:
    if not step.started_at or not step.ended_at:
        return ""
    return f" ({(step.ended_at - step.started_at).total_seconds():.1f} s)"


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
