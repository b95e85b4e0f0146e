"""Runs gcloud and terraform: what they print is shown, or taken."""

from __future__ import annotations

import os
import shlex
import signal
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


def relay(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Let a program print to this terminal; ProgramFailed with all that it said.

    Ctrl-C reaches the program as well, and this waits until it has ended: Terraform gives back its
    lock on the state then.
    """
    print(f"$ {shlex.join(command)}", flush=True)
    said: list[str] = []
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with _open(command, environment) as running:
            for line in running.stdout or ():
                said.append(line)
                print(line, end="", flush=True)
    finally:
        signal.signal(signal.SIGINT, before)
    if running.returncode:
        failed = ProgramFailed(command, f"ended with {running.returncode}")
        failed.said = "".join(said)
        raise failed


def _open(command: Sequence[str], environment: Mapping[str, str] | None) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            command,
            env=_surroundings(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except FileNotFoundError:
        raise ProgramFailed(command, INSTALL[command[0]]) from None


def _run(
    command: Sequence[str], environment: Mapping[str, str] | None, capture: bool
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=_surroundings(environment),
            stdin=subprocess.DEVNULL,
            capture_output=capture,
            text=True,
        )
    except FileNotFoundError:
        raise ProgramFailed(command, INSTALL[command[0]]) from None


def _surroundings(environment: Mapping[str, str] | None) -> dict[str, str]:
    # Nobody is asked anything: what is asked is not on the screen.
    return {**(environment or os.environ), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
