"""The environment of the contestants that the product does not need: build/bench-venv."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from turnout.demo import ROOT

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
FOLDER = ROOT / "build" / "bench-venv"


def bench_python() -> str:
    """Return the interpreter that has requirements.txt beside the project's own packages.

    Made once, and anew when the file or the project's own environment changed.
    """
    ready = FOLDER / "ready"
    wanted = f"{sys.executable}\n{REQUIREMENTS.read_text()}"
    python = FOLDER / "bin" / "python"
    if not ready.exists() or ready.read_text() != wanted:
        venv.create(FOLDER, clear=True, with_pip=True)
        _see_packages_of_project(python)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", str(REQUIREMENTS)], check=True)
        ready.write_text(wanted)
    return str(python)


def _see_packages_of_project(python: Path) -> None:
    own = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    paths = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (Path(own) / "project.pth").write_text("".join(f"{path}\n" for path in paths))
