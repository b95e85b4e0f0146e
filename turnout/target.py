"""Which cloud a command talks to: a project that was named, or the local cloud that runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

from shared.errors import Unavailable

CLOUD_FILE = "cloud.json"


class NotRunning(Unavailable):
    """No project was named, and no local cloud answers."""

    code = "local_cloud_not_running"

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"no local cloud runs from {folder}; start one with `turnout up`, "
            "or name a project with --project"
        )


def choose(project: str | None, region: str | None, data: Path) -> str:
    """Point this process at its cloud and return which one, as a person would say it.

    A named project is production. Otherwise the environment that the running local cloud
    wrote is taken over, so that every Google client finds it; NotRunning without one.
    """
    if project:
        os.environ["TURNOUT_PROJECT"] = os.environ["GOOGLE_CLOUD_PROJECT"] = project
        if region:
            os.environ["TURNOUT_REGION"] = region
        return f"project {project}"
    if "TURNOUT_PROJECT" in os.environ:
        return f"project {os.environ['TURNOUT_PROJECT']}"
    os.environ.update(local_environment(data))
    return f"the local cloud in {data}"


def local_environment(data: Path) -> dict[str, str]:
    """Return the environment of the local cloud that runs from `data`; NotRunning otherwise."""
    path = data / CLOUD_FILE
    try:
        written = json.loads(path.read_text())
        os.kill(written["pid"], 0)
    except (FileNotFoundError, ProcessLookupError):
        raise NotRunning(data) from None
    except PermissionError:
        pass  # somebody else's process, and alive
    environment: dict[str, str] = written["environment"]
    return environment
