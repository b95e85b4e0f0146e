"""The documentation, played: its commands and its code against a running cloud, in an order in
which a reader may come by."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.docs.pages import ROOT, SHELLS, Fence, all_fences, fences
from tests.e2e.world import TRAINING, World, clean_environment, message, until

HOW_TO = ROOT / "docs/how-to"
CALLING = HOW_TO / "call-the-prediction-api.md"
README, BEGIN = ROOT / "README.md", ROOT / "docs/getting-started.md"
SHELL, DECIDING = HOW_TO / "publish-from-a-shell.md", HOW_TO / "deploy-and-roll-back.md"
KEYS, EVENTS = HOW_TO / "rotate-a-key.md", HOW_TO / "subscribe-to-events.md"
NOTEBOOK, VERTEX = (
    HOW_TO / "publish-from-a-notebook.md",
    HOW_TO / "publish-from-vertex-ai-pipelines.md",
)

KFP = """
class dsl:
    @staticmethod
    def component(*, base_image, packages_to_install):
        return lambda function: type("Component", (), {"python_func": staticmethod(function)})
"""
"""What the component's page needs of KFP; `make docs-check` compiles it with the real one."""

LANGUAGES = {
    "python": ("recommend.py", [sys.executable, "recommend.py"]),
    "bash": ("recommend.sh", ["bash", "-eu", "recommend.sh"]),
    "javascript": ("recommend.mjs", ["node", "recommend.mjs"]),
    "go": ("recommend.go", ["go", "run", "recommend.go"]),
    "java": ("Recommend.java", ["java", "Recommend.java"]),
}


def live_fences(page: Path) -> list[Fence]:
    return [one for one in fences(page) if one.kind == "live"]


class Reader:
    """Somebody who types what the pages say, in a folder of their own; `played` has what."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.played: list[Fence] = []
        (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
        (folder / "kfp.py").write_text(KFP)

    def types(self, page: Path, number: int, **environment: str) -> str:
        """Run a page's `number`th live fence; return what it printed."""
        fence = live_fences(page)[number]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", fence.body],
            cwd=self.folder,
            env={
                **clean_environment(),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "TURNOUT_DATA": str(self.world.data),
                "TURNOUT_USER": "reader@example.com",
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == 0, f"{fence.where}: {done.stdout}{done.stderr}"
        self.played.append(fence)
        return done.stdout

    def python(self, code: str) -> Any:
        """Run code as a notebook beside the local cloud would; return the JSON that it prints."""
        local = json.loads((self.world.data / "cloud.json").read_text())["environment"]
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.folder,
            env={**clean_environment(), **local},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def has_traffic(self, deployment_id: str) -> None:
        def found() -> bool:
            one = self.world.deployment(deployment_id)
            assert one is None or one["status"] == "deploying", one["reason"]
            return one is not None and one["stage_started_at"] is not None

        until(found, f"{deployment_id} has its first traffic")


def code_of(page: Path, number: int = 0) -> str:
    found = [one.body for one in fences(page) if one.language == "python" and one.kind != "cloud"]
    return found[number]


@pytest.fixture(scope="module")
def reader(
    world: World, artifacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Reader:
    """A reader with v1 of `movies` live, published by a pipeline's component, and run 2 known."""
    reader = Reader(world, tmp_path_factory.mktemp("reader"))
    subscription = reader.python(
        f"{code_of(EVENTS)}\nprint(json.dumps(subscribe('turnout-local', 'warm-the-cache')))"
    )
    (reader.folder / "turnout_component.py").write_text(code_of(VERTEX))
    uri = world.upload(artifacts["good"], "movies", 1)
    asked = {
        "project": "turnout-local",
        "model_id": "movies",
        "run_number": 1,
        "artifact_uri": uri,
        "metrics": {"recall_at_100": 0.306},
        "deploy": {"when": "always", "strategy": "immediate", "requested_by": "a pipeline"},
    }
    message_id = reader.python(
        "import json; from turnout_component import publish_training_completed as component\n"
        f"print(json.dumps(component.python_func(**{asked!r})))"
    )
    assert world.outcome(message_id) == "started"
    assert world.ended("movies-1-auto", "active")["deployed_by"] == "a pipeline"
    events = reader.python(
        f"{code_of(EVENTS)}\nheard = []\n"
        f"while not heard: handle({subscription!r}, set(), heard.append)\n"
        "print(json.dumps(heard))"
    )
    assert [one["deployment_id"] for one in events] == ["movies-1-auto"]
    example = [one for one in fences(EVENTS) if one.language == "json"][-1]
    assert set(events[0]) == set(json.loads(example.body))
    message_id = reader.python(
        f"{code_of(NOTEBOOK)}\nfolder = Path({str(artifacts['good'])!r})\n"
        "print(json.dumps(announce_run('turnout-local', folder, 'movies', 2, "
        "{'recall_at_100': 0.31})))"
    )
    assert world.outcome(message_id) == "listed"
    return reader


@pytest.mark.parametrize("language", LANGUAGES)
def test_prediction_api_answers_every_language(
    reader: Reader, language: str, tmp_path: Path
) -> None:
    file, command = LANGUAGES[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed; the code is parsed by tests/docs")
    [fence] = [
        one for one in fences(CALLING) if one.kind == "languages" and one.language == language
    ]
    url = reader.world.service("movies").uri
    code = fence.body.replace("https://YOUR-MODELS-URL", url)
    (tmp_path / file).write_text(code.replace("your-api-key", reader.world.key("movies")))
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=180
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("P0") == 10, done.stdout


def test_every_live_command_of_the_pages_does_what_they_say(reader: Reader) -> None:
    world = reader.world
    [example] = [one for one in fences(SHELL) if one.language == "json"]
    (reader.folder / "message.json").write_text(example.body)
    assert json.loads(example.body)["artifact_uri"] == f"gs://{TRAINING}/movies/run-2"

    assert "movies" in reader.types(BEGIN, 0)
    assert "P0" in reader.types(BEGIN, 1)

    # A rollout in steps, which the reader of the first page skips through.
    assert "It would be deployed at once" in reader.types(SHELL, 0)
    reader.has_traffic("movies-2-first-try")
    assert "/dashboard/" in reader.types(BEGIN, 2)
    world.ended("movies-2-first-try", "active")
    assert "Training runs of movies" in reader.types(SHELL, 1)
    until(lambda: no_better(world, "movies-2"), "the gate says that run 2 is no better than itself")

    assert "P0" in reader.types(CALLING, 0)
    old = world.turnout_json("keys", "create", "movies", "--name", "shop")
    reader.types(KEYS, 0)
    listed = {one["name"]: one for one in json.loads(reader.types(KEYS, 1))}
    assert {"shop", "shop-2027"} <= set(listed)
    assert "last_used_at" in listed["shop"]
    assert "revoked" in reader.types(KEYS, 2, OLD_KEY_ID=old["id"])

    # The message once more changes nothing, and the version before is one command away.
    reader.types(README, 0)
    world.unlocked("movies")
    world.serves("movies", v1=100)

    reader.types(DECIDING, 0)
    reader.has_traffic("movies-2-by-hand")
    said = reader.types(DECIDING, 1)
    assert re.findall(r"(paused|resumed|approved|skipped)$", said, re.MULTILINE) == [
        *("paused", "resumed", "approved", "skipped")
    ]
    world.ended("movies-2-by-hand", "active")
    world.publish(message("movies", 2, f"gs://{TRAINING}/movies/run-2", request_id="another-try"))
    until(lambda: world.deployment("movies-2-another-try"), "another try is there")
    assert "cancelled" in reader.types(DECIDING, 2)
    world.unlocked("movies")
    reader.types(DECIDING, 3)
    world.serves("movies", v1=100)
    reader.types(DECIDING, 4)
    world.serves("movies", v1=100)
    reader.types(BEGIN, 3)
    world.serves("movies", v1=100)

    made = json.loads(reader.types(DECIDING, 5, TOKEN=token(world), DASHBOARD_URL=dashboard(world)))
    until(lambda: world.deployment(made["deployment_id"]), "what the API asked for is there")
    world.call("cancel", {"deployment_id": made["deployment_id"]})
    world.unlocked("movies")

    assert {one.where for one in reader.played} == {
        one.where for one in all_fences(*SHELLS) if one.kind == "live"
    }


def no_better(world: World, run: str) -> bool:
    """Say whether the gate refused a request for the run; `auto` is the notebook's, with `off`."""
    found = world.document(f"training_runs/{run}") or {}
    return any(
        not one["deploy"] for request, one in found["decisions"].items() if request != "auto"
    )


def dashboard(world: World) -> str:
    local = json.loads((world.data / "cloud.json").read_text())["environment"]
    return f"{local['TURNOUT_FUNCTIONS_URL']}/dashboard"


def token(world: World) -> str:
    """Return an ID token of this machine's account, as `gcloud auth print-identity-token` does."""
    local = json.loads((world.data / "cloud.json").read_text())["environment"]
    answer = requests.get(
        f"http://{local['GCE_METADATA_HOST']}/computeMetadata/v1/instance/service-accounts/"
        "default/identity",
        params={"audience": dashboard(world)},
        headers={"Metadata-Flavor": "Google"},
        timeout=30,
    )
    answer.raise_for_status()
    return answer.text
