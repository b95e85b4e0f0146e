"""What the serving image is built from, as an archive whose hash becomes the image's tag."""

from __future__ import annotations

from pathlib import Path

from deploy.archive import write_archive
from deploy.imports import imported

#: What is started as a program: the container, the model's process, who sends a start's trace.
ENTRIES = (
    "serving/__init__.py",
    "serving/__main__.py",
    "serving/engine.py",
    "serving/traces.py",
)
BESIDE = ("serving/Dockerfile", "serving/requirements.txt", "deploy/trim.py", "deploy/sbom.txt")


def write_image_source(root: Path, folder: Path) -> Path:
    """Write `folder/image-HASH.zip` from the checkout at `root`; NotBuilt."""
    contents = {name: (root / name).read_bytes() for name in image_source(root)}
    return write_archive("image", contents, folder)


def image_source(root: Path) -> list[str]:
    """Return the files that the image is built from, sorted, relative to `root`; NotBuilt."""
    return sorted({*imported(root, ENTRIES, ["serving"]), *BESIDE})
