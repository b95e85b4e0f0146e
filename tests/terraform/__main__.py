"""`make terraform-check`: everything about terraform/ that can be said without a project."""

from __future__ import annotations

import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager

from tests.terraform.checking import HOW_TO_INSTALL, ROOT, CheckFailed, installed, working_copy

CHECKOV = "checkov==3.3.30"
# It needs other versions of packages than the project does, so it gets an environment of its own.
CHECKOV_VENV = ROOT / "build" / "checkov-venv"


def main() -> int:
    """Run each check; return the exit code."""
    if not installed():
        print(HOW_TO_INSTALL, file=sys.stderr)
        return 1
    try:
        _terraform()
        _policies()
    except CheckFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


def _terraform() -> None:
    with working_copy() as workspace:
        with _step("format"):
            workspace.run("fmt", "-check", "-recursive", "-diff")
        with _step("validate"):
            workspace.run("validate")
    # Among them is `terraform test`, and what several resources must agree on.
    with _step("test"):
        _call(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/terraform")


def _policies() -> None:
    """Run checkov's policies; those that do not hold are skipped in terraform/, each with why."""
    with _step("policies (checkov)"):
        checkov = CHECKOV_VENV / "bin" / "checkov"
        if not checkov.exists():
            venv.create(CHECKOV_VENV, with_pip=True)
            pip = [str(CHECKOV_VENV / "bin" / "pip"), "install", "--quiet"]
            _call(*pip, "--disable-pip-version-check", CHECKOV)
        with working_copy() as workspace:
            said = _call(
                *(str(checkov), "--directory", str(workspace.folder)),
                *("--framework", "terraform", "--compact", "--quiet", "--skip-download"),
            )
        # What it cannot read it passes over in silence, or nearly.
        if "Parsing errors" in said and "Parsing errors: 0" not in said:
            raise CheckFailed(f"checkov cannot read a file:\n{said}")


@contextmanager
def _step(name: str) -> Iterator[None]:
    """Say how long a check took."""
    print(f"{name} ... ", end="", flush=True)
    began = time.monotonic()
    yield
    print(f"{time.monotonic() - began:.0f} s", flush=True)


def _call(*command: str) -> str:
    """Return what a command printed; CheckFailed with it where it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckFailed(done.stdout + done.stderr)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
