"""Lists of pinned, hashed packages: of the functions, of the image, of the bills of materials.

The first two are cut out of requirements.lock, which says what was tested; the third is never
installed beside them.
"""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path

#: The extra of pyproject.toml that each list is for.
LISTS = {
    "functions": "functions/requirements.txt",
    "serving": "serving/requirements.txt",
    "sbom": "deploy/sbom.txt",
}
#: Of the runtime that Terraform names and of the image.
PYTHON = "3.11"
_HEAD = """\
# The packages of pyproject.toml's extra `{extra}`, and theirs, as requirements.lock has them.
# Change those two first, then `make lock` writes this file.
"""


class NotLocked(RuntimeError):
    """The lists could not be written; the message says why."""


def write_locks(root: Path) -> None:
    """Write the lists anew from pyproject.toml and requirements.lock; NotLocked."""
    if shutil.which("uv") is None:
        raise NotLocked("`make lock` needs uv: pip install uv")
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for extra, path in LISTS.items():
        (root / path).write_text(_HEAD.format(extra=extra) + _resolve(extras[extra], root))


def _resolve(requirements: list[str], root: Path) -> str:
    command = ["uv", "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate"]
    command += ["--universal", "--python-version", PYTHON, "--generate-hashes"]
    command += ["--constraint", "requirements.lock"]
    done = subprocess.run(
        command, cwd=root, input="\n".join(requirements), capture_output=True, text=True
    )
    if done.returncode:
        raise NotLocked(done.stderr)
    return done.stdout
