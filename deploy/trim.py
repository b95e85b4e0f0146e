"""Removes from the serving image's packages what serving never uses.

    python3 deploy/trim.py SITE_PACKAGES

Runs in the image's build, on packages that pip installed. Only what no import of serving touches
goes: see docs/deploying.md for the sizes. Prints the megabytes before and after.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

#: Whole distributions: pip and its kin install, libclang parses C++. None of them runs here.
DISTRIBUTIONS = ("libclang", "pip", "setuptools", "wheel")
#: C++ headers, for those who compile kernels of their own against TensorFlow.
FOLDERS = ("tensorflow/include", "tensorflow/xla_aot_runtime_src")
#: Tests that packages install beside their code.
TESTS = ("numpy/**/tests", "h5py/tests")
#: Libraries whose symbol tables go. TensorFlow's alone: other packages' were rewritten when their
#: wheels were made, and `strip` may break what was.
STRIPPED = "tensorflow/**/*.so*"


def main(packages: Path) -> None:
    """Trim the folder in place; FileNotFoundError when it lacks what should be removed."""
    before = _megabytes(packages)
    for name in DISTRIBUTIONS:
        remove_distribution(packages, name)
    for name in FOLDERS:
        shutil.rmtree(packages / name)
    for pattern in TESTS:
        for folder in list(packages.glob(pattern)):
            shutil.rmtree(folder, ignore_errors=True)  # it may have gone with the one around it
    for library in packages.glob(STRIPPED):
        if not library.is_symlink():
            subprocess.run(["strip", "--strip-unneeded", library], check=True)
    print(f"{before} MB before, {_megabytes(packages)} MB after")


def remove_distribution(packages: Path, name: str) -> None:
    """Remove an installed distribution with all its files; FileNotFoundError without it."""
    found = [path for path in packages.glob("*.dist-info") if _name(path) == name]
    if not found:
        raise FileNotFoundError(f"no {name} in {packages}")
    for path in _recorded(packages, found[0]):
        path.unlink(missing_ok=True)
        _remove_empty(path.parent, packages)


def _recorded(packages: Path, information: Path) -> Iterator[Path]:
    """Yield a distribution's files below `packages`; its commands lie outside."""
    with (information / "RECORD").open(newline="") as record:
        names = [Path(row[0]) for row in csv.reader(record)]
    yield from (packages / name for name in names if ".." not in name.parts)


def _remove_empty(folder: Path, top: Path) -> None:
    while folder != top and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _name(information: Path) -> str:
    return information.name.split("-")[0].lower().replace("_", "-")


def _megabytes(folder: Path) -> int:
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    return round(size / 1e6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
