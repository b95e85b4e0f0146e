"""Runs gcloud and terraform: what they print is shown, or taken."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence

INSTALL = {
    "gcloud": "install the Google Cloud CLI: https://cloud.google.com/sdk/docs/install",
    "terraform": "install Terraform: https://developer.hashicorp.com/terraform/install",
}


class ProgramFailed(RuntimeError):
    """A program ended with an error, or is not installed; `said` is what it said of it."""

    def __init__(self, command: Sequence[str], why: str, said: str = "") -> None:
        super().__init__(f"{shlex.join(command)}\n{why}" + (f":\n{said}" if said else ""))
        self.said = said


def take(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Return what a program prints; ProgramFailed with what it says on stderr."""
    done = _run(command, environment, capture=True)
    if done.returncode:
        raise ProgramFailed(command, f"ended with {done.returncode}", done.stderr.strip())
    return done.stdout.strip()


def show(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    fine: Sequence[int] = (0,),
) -> int:
    """Let a program print to this terminal; return its exit code, ProgramFailed if not `fine`."""
    print(f"$ {shlex.join(command)}", flush=True)
    code = _run(command, environment, capture=False).returncode
    if code not in fine:
        raise ProgramFailed(command, f"ended with {code}")
    return code


def _run(
    command: Sequence[str], environment: Mapping[str, str] | None, capture: bool
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            # Nobody is asked anything: what is asked is not on the screen.
            env={**(environment or os.environ), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=capture,
            text=True,
        )
    except FileNotFoundError:
        raise ProgramFailed(command, INSTALL[command[0]]) from None
