"""Static files under addresses that carry their content's hash, so that they never go stale."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "static"
FOREVER = "public, max-age=31536000, immutable"
_TEXT = (".css", ".js", ".svg")


@cache
def known(name: str) -> bool:
    """True for a text file of the folder, by its path within."""
    return name.endswith(_TEXT) and (FOLDER / name).is_file() and ".." not in name


@cache
def content(name: str) -> bytes:
    """Return a file's bytes."""
    return (FOLDER / name).read_bytes()


@cache
def compressed(name: str) -> bytes:
    """Return a file's bytes, gzipped once a process."""
    return gzip.compress(content(name), compresslevel=9, mtime=0)


@cache
def digest(name: str) -> str:
    """Return the part of the address that changes with the content."""
    return hashlib.sha256(content(name)).hexdigest()[:12]
