"""Weight and time to first paint of the model page with a long history behind it.

`python -m benchmarks.pages` (needs /usr/bin/chromium): a local cloud with 10 models, of which
one has 200 versions and 30 days of hourly metrics, opened in Chromium without a cache.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from google.cloud import firestore
from playwright.sync_api import sync_playwright
from rich.progress import track

from benchmarks.pipeline import running_cloud
from shared import wiring
from shared.domain.deployment import Deployment, ModelConfig, Status, Step, StepName, StepState
from shared.domain.model import Model
from shared.domain.rollout import Strategy, plan_rollout
from shared.gcp.firestore import plain
from turnout.output import console, print_json, print_table
from turnout.target import choose

MODELS, VERSIONS, DAYS, LOADS = 10, 200, 30, 20
LARGEST = "model-0"
CHROMIUM = "/usr/bin/chromium"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
MEASURE = """() => {
    const paint = performance.getEntriesByName('first-contentful-paint')[0];
    const all = [...performance.getEntriesByType('navigation'),
                 ...performance.getEntriesByType('resource')];
    const first = performance.getEntriesByType('navigation')[0];
    return {first_paint_ms: paint.startTime, server_ms: first.responseStart - first.requestStart,
            bytes: all.reduce((sum, entry) => sum + entry.transferSize, 0)};
}"""


def main() -> None:
    """Fill the cloud, load the page, print medians with their range."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    options = parser.parse_args()
    console.quiet = options.json
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as name:
        folder = Path(name)
        with running_cloud(folder, _declare(folder)):
            choose(None, None, folder)
            _fill()
            found = _load(f"{os.environ['TURNOUT_FUNCTIONS_URL']}/dashboard/models/{LARGEST}")
    if options.json:
        print_json(found)
        return
    rows = [
        [what, f"{median(values):.1f}", f"{min(values):.1f}", f"{max(values):.1f}"]
        for what, values in found.items()
    ]
    print_table(f"Model page, {LOADS} loads", ["What", "Median ", "Lowest ", "Highest "], rows)


def _declare(folder: Path) -> Path:
    model = {"image": "turnout-serving", "service_account": "serving", "min_instances": 0}
    path = folder / "models.json"
    path.write_text(json.dumps({"models": {f"model-{n}": model for n in range(MODELS)}}))
    return path


def _fill() -> None:
    """Write what 200 deployments and 30 days leave behind, each document once."""
    client = wiring.firestore_client()
    bulk = client.bulk_writer()
    now = datetime.now(UTC)
    for version in track(range(1, VERSIONS + 1), "writing versions", console=console):
        deployment = _deployment(version, now - timedelta(hours=VERSIONS - version))
        bulk.set(client.collection("deployments").document(deployment.id), _document(deployment))
        run = {
            "model_id": LARGEST,
            "run_number": version,
            "artifact_uri": deployment.artifact_uri,
            "metrics": dict(deployment.metrics),
            "feature_config": {"id": "config-1", "name": "Large"},
            "dataset": {"name": "Ratings", "version": 1},
            "completed_at": deployment.created_at,
        }
        bulk.set(client.collection("training_runs").document(f"{LARGEST}-{version}"), run)
    newest = f"{LARGEST}-{VERSIONS}-auto"
    for hours in range(DAYS * 24):
        bulk.set(*_hour(client, newest, now - timedelta(hours=hours)))
    bulk.close()
    model = Model(LARGEST, VERSIONS + 1, VERSIONS, active=newest)
    client.collection("models").document(LARGEST).set(
        plain(
            {
                "id": model.id,
                "next_version": model.next_version,
                "token": model.token,
                "active": model.active,
                "lock": None,
                "waiting": None,
                "desired": {},
            }
        )
    )


def _deployment(version: int, at: datetime) -> Deployment:
    config = ModelConfig(LARGEST, "turnout-serving", "serving@example.com")
    recall = {"recall_at_100": 0.3, "recall_at_50": 0.2, "recall_at_10": 0.1}
    step = Step(StepState.DONE, at, at + timedelta(seconds=5), "done")
    made = Deployment(
        id=f"{LARGEST}-{version}-auto",
        model_id=LARGEST,
        version=version,
        training_run=version,
        request_id="auto",
        artifact_uri=f"gs://turnout-local-training/{LARGEST}/run-{version}",
        config=config,
        plan=plan_rollout(Strategy.IMMEDIATE, (), 0),
        deployed_by="training",
        created_at=at,
        token=version,
        cloud_run_service=config.service,
        cloud_run_revision=f"{config.service}-v{version}-1",
        metrics=recall,
        recall_at_100=0.3,
        recall_at_50=0.2,
        recall_at_10=0.1,
        healthy=True,
        steps={name.value: step for name in StepName},
    ).become(Status.ACTIVE, at, "all steps passed")
    if version == VERSIONS:
        return made
    return replace(made, status=Status.INACTIVE, traffic_percent=0, deactivated_at=at)


def _document(deployment: Deployment) -> dict[str, object]:
    from pydantic import TypeAdapter

    document: dict[str, object] = plain(TypeAdapter(Deployment).dump_python(deployment))
    return document


def _hour(
    client: firestore.Client, deployment_id: str, at: datetime
) -> tuple[firestore.DocumentReference, dict[str, object]]:
    hour = at.replace(minute=0, second=0, microsecond=0)
    return client.collection("serving_metrics").document(f"{deployment_id}-{hour:%Y%m%d%H}"), {
        "deployment_id": deployment_id,
        "model_id": LARGEST,
        "hour": hour,
        "request_count": 500,
        "unique_customers": 120,
        "avg_latency_ms": 2.1,
        "p50_latency_ms": 1.9,
        "p95_latency_ms": 4.0,
        "p99_latency_ms": 9.0,
        "error_count": 1,
        "error_rate": 0.002,
        "collected_at": at,
    }


def _load(url: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        for _ in track(range(LOADS + 1), "loading the page", console=console):
            page = browser.new_context().new_page()  # a context of its own: nothing cached
            answer = page.goto(url, wait_until="load")
            if answer is None or answer.status != 200:
                raise RuntimeError(f"{url} answers {answer.status if answer else 'nothing'}")
            page.wait_for_function(
                "() => performance.getEntriesByName('first-contentful-paint').length"
            )
            measured = page.evaluate(MEASURE)
            found.setdefault("first contentful paint, ms", []).append(measured["first_paint_ms"])
            found.setdefault("until the server answers, ms", []).append(measured["server_ms"])
            found.setdefault("transferred, KB", []).append(measured["bytes"] / 1000)
            page.context.close()
        browser.close()
    return {what: values[1:] for what, values in found.items()}  # the first one warms up


if __name__ == "__main__":
    main()
