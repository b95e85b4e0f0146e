"""The first hour of somebody new: the demo, and getting started word for word, in its order."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Fence, fences
from tests.e2e.world import Cloud, World, clean_environment, until

BEGIN = ROOT / "docs/getting-started.md"
MODELS = ROOT / "terraform/models.auto.tfvars.json"
PYTHON = Path(sys.executable).parent


def newcomer(data: Path) -> dict[str, str]:
    """Return the environment of a shell that knows nothing but where the local cloud is."""
    return {
        **clean_environment(),
        "PATH": f"{PYTHON}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TURNOUT_DATA": str(data),
    }


def test_the_demo_ends_well(tmp_path: Path) -> None:
    recipe = subprocess.run(
        ["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert any(line.endswith("bin/turnout demo") for line in recipe)
    done = subprocess.run(
        [PYTHON / "turnout", "demo", "--json"],
        cwd=ROOT,
        env=newcomer(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    told = json.loads(done.stdout)
    assert told["failed"] == 0 < told["requests"]
    assert [one["split"] for one in told["stages"]] == [
        *({"v1": 100}, {"v1": 80, "v2": 20}, {"v2": 100}, {"v1": 100})
    ]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[tuple[Path, World]]:
    """A folder of their own, and a local cloud as `make up` starts it."""
    cloud = Cloud(tmp_path, MODELS)
    world = cloud.start()
    yield tmp_path, world
    world.close()
    cloud.stop()


class Shell:
    """Types the fences of the page, each in a shell of its own."""

    def __init__(self, folder: Path, data: Path) -> None:
        (folder / ".venv").symlink_to(PYTHON.parent)
        self._folder, self._environment = folder, newcomer(data)

    def begin(self, fence: Fence) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", fence.body],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def types(self, fence: Fence) -> str:
        return self.ended(self.begin(fence), fence)

    def ended(self, running: subprocess.Popen[str], fence: Fence) -> str:
        said, _ = running.communicate(timeout=300)
        assert running.returncode == 0, f"{fence.where}: {said}"
        return said


def has_traffic(world: World) -> bool:
    found = world.deployment("movies-2-auto")
    return found is not None and found["traffic_percent"] == 10


def test_getting_started_does_what_it_says(home: tuple[Path, World]) -> None:
    folder, world = home
    shell = Shell(folder, world.data)
    _, _, models, first, ask, second, decide, back = (
        one for one in fences(BEGIN) if one.language == "bash"
    )
    assert "nothing yet" in shell.types(models)
    said = shell.types(first)
    assert "Published message" in said
    assert "model-serving-movies-v1-1 100 %" in said
    assert "Recommended by v1" in shell.types(ask)

    watching = shell.begin(second)  # The page's "another terminal" is this one.
    until(lambda: has_traffic(world), "version 2 has 10 % of the traffic")
    assert "/dashboard/" in shell.types(decide)
    assert "model-serving-movies-v2-1 100 %" in shell.ended(watching, second)
    world.unlocked("movies")
    assert re.search(r"\bv1\b.* 100 %", shell.types(back))
    world.serves("movies", v1=100)
