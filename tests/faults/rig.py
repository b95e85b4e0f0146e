"""A faulty cloud with one model, kept running as a platform would, and looked at all the time."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
from google.api_core.exceptions import GoogleAPIError

from tests.e2e import declarations
from tests.e2e.traffic import Traffic
from tests.e2e.world import Cloud, World, message, served, until
from tests.faults.cases import Call, Rule
from tests.faults.faulty_cloud import DOORS_FILE, LOG

MODEL = "fragile"
WORKFLOW = "deploy-model"


class FaultyProcess(Cloud):
    """`python -m tests.faults.faulty_cloud` in a process of its own."""

    def command(self, models: Path) -> list[str]:
        """Return the command line that starts it."""
        return [sys.executable, "-m", "tests.faults.faulty_cloud", str(self.data), str(models)]


class Rig:
    """One faulty cloud; when it dies it is started again at once, on the same data."""

    def __init__(self, folder: Path) -> None:
        policy = {"when": "always", "canary": {"judge": "off"}}
        model = {
            "image": "none",
            "service_account": "serving",
            "min_instances": 0,
            "golden_customers": declarations.GOLDEN,
            "prepare": {"top_k": 0},
            "policy": policy,
        }
        self._cloud = FaultyProcess(folder, declarations.write(folder, {MODEL: model}))
        self._artifacts = _artifacts(folder / "artifacts")
        self._log = self._cloud.data / LOG
        self._seen_bytes = 0
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._alive = threading.Event()
        self._runs = 0
        # The message of the story that is refused, "" in all others.
        self.refused = ""
        # When it was away, in s (monotonic): no request could be answered then.
        self.away: list[tuple[float, float]] = []

    def __enter__(self) -> Rig:
        self.world: World = self._cloud.start()
        self._alive.set()
        self._keeper.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._keeper.join()
        self.world.close()
        self._cloud.kill()

    def alive(self) -> World:
        """Return the world, once the cloud is up."""
        assert self._alive.wait(timeout=120), "the cloud does not come back"
        return self.world

    # -- faults

    def arm(self, rules: Sequence[Rule]) -> None:
        """Let these rules hold from now on; the calls are counted from the beginning."""
        doors = json.loads((self._cloud.data / DOORS_FILE).read_text())
        self._seen_bytes = self._log.stat().st_size if self._log.exists() else 0
        answer = requests.put(
            f"{doors['control']}/rules", json=[rule.fields() for rule in rules], timeout=60
        )
        answer.raise_for_status()

    def noted(self) -> list[dict[str, Any]]:
        """Return the calls and strokes since the rules were armed."""
        with self._log.open("rb") as log:
            log.seek(self._seen_bytes)
            lines = log.read().decode().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def calls(self) -> list[Call]:
        """Return the calls since the rules were armed."""
        return [
            Call(line["function"], line["method"], line["number"])
            for line in self.noted()
            if "fault" not in line
        ]

    def struck(self, rule: Rule) -> bool:
        """True once that rule has struck."""
        return any(
            line.get("fault") == rule.fault and line["function"] == rule.function
            for line in self.noted()
        )

    # -- the model

    def publish(self, **deploy: Any) -> str:
        """Publish the next run; return the id that its deployment has."""
        self._runs += 1
        run = self._runs
        uri = self.world.upload(self._artifacts, MODEL, run)
        self.world.publish(message(MODEL, run, uri, **deploy))
        return f"{MODEL}-{run}-auto"

    def ask(self, function: str, body: Mapping[str, Any]) -> str:
        """Ask a function once; return what it answered, "" for success."""
        try:
            answer = self.alive().call(function, body)
        except requests.RequestException as error:
            return type(error).__name__
        return "" if answer.status_code == 200 else f"{answer.status_code}: {answer.text[:300]}"

    def reconcile(self) -> list[str]:
        """Run what the scheduler would; return what it found, nothing where it failed."""
        try:
            answer = self.alive().call("reconcile", {"model_id": MODEL})
        except requests.RequestException:
            return []
        return list(answer.json()["findings"].get(MODEL, [])) if answer.ok else []

    def model(self) -> dict[str, Any]:
        """Return the model's document."""
        return self.alive().document(f"models/{MODEL}") or {}

    def at_percent(self, deployment_id: str, percent: int) -> None:
        """Wait until a rollout has given the candidate that share, and bakes."""

        def reached() -> bool:
            found = self.world.deployment(deployment_id)
            shares = served(self.world.service(MODEL)).values()
            return bool(found and found["traffic_percent"] == percent and percent in shares)

        until(reached, f"{deployment_id} has {percent} %")

    def executions(self) -> list[str]:
        """Return the workflow executions that are at work."""
        world = self.alive()
        parent = f"projects/turnout-local/locations/europe-central2/workflows/{WORKFLOW}"
        return [
            one.name
            for one in world.executions.list_executions(parent=parent)
            if one.state.name == "ACTIVE"
        ]

    def _keep(self) -> None:
        while not self._over.wait(0.05):
            process = self._cloud.process
            if process is None or process.poll() is None:
                continue
            died_at = time.monotonic()
            self._alive.clear()
            self.world = self._cloud.start()
            self._alive.set()
            self.away.append((died_at - 1.0, time.monotonic() + 1.0))


class Watch:
    """Asks for predictions and looks at the split from entry to exit."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._traffic = Traffic(rig.world.service(MODEL).uri, "no key", threads=1, per_second=25)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._away_before = len(rig.away)
        self.splits: Counter[tuple[tuple[str, int], ...]] = Counter()

    def __enter__(self) -> Watch:
        self._traffic.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._traffic.__exit__(kind, error, traceback)

    @property
    def requests(self) -> int:
        """How many predictions were asked for."""
        return len(self._traffic.answers)

    def failures(self) -> list[str]:
        """Return the requests that failed while the cloud was there."""
        away = self._rig.away[self._away_before :]
        return [
            answer.failure
            for answer in self._traffic.answers
            if answer.failure
            and not any(
                begin <= answer.answered_at and answer.sent_at <= end for begin, end in away
            )
        ]

    def _look(self) -> None:
        while not self._over.wait(0.05):
            try:
                service = self._rig.world.service(MODEL)
            except (GoogleAPIError, ValueError):
                continue  # it is being started again
            split = {
                target.revision.split("/")[-1]: target.percent
                for target in service.traffic_statuses
                if target.percent
            }
            self.splits[tuple(sorted(split.items()))] += 1


def _artifacts(folder: Path) -> Path:
    """Write what the pipeline takes for a SavedModel; the stand-in containers load nothing."""
    (folder / "saved_model" / "variables").mkdir(parents=True)
    (folder / "saved_model" / "saved_model.pb").write_bytes(b"a graph")
    (folder / "saved_model" / "variables" / "variables.index").write_bytes(b"an index")
    return folder
