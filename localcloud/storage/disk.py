"""The bytes of objects: immutable files under generated names, checked as they are sealed."""

from __future__ import annotations

import base64
import hashlib
import sys
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import google_crc32c

BLOCK = 1 << 20


@dataclass(frozen=True)
class Content:
    """A sealed file: its name in `data/`, its size in bytes, its checksums in base64."""

    file: str
    size: int
    crc32c: str
    md5: str


class Disk:
    """`incoming/` holds what is being written, `data/` what objects point to.

    No name is ever made from what a caller sent, so no object name can leave the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._incoming = folder / "incoming"
        self._data = folder / "data"
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._data.mkdir(parents=True, exist_ok=True)

    def begin(self) -> str:
        """Create an empty incoming file and return its name."""
        name = uuid.uuid4().hex
        self.incoming(name).touch(exist_ok=False)
        return name

    def incoming(self, name: str) -> Path:
        """Return the path of a file that is being written."""
        return self._incoming / name

    def sealed(self, name: str) -> Path:
        """Return the path of an object's file."""
        return self._data / name

    def append(self, name: str, reader: BinaryIO, count: int | None = None) -> None:
        """Append up to `count` bytes of `reader` to an incoming file (None: all that is left)."""
        with self.incoming(name).open("ab") as writer:
            left = sys.maxsize if count is None else count
            while left > 0 and (block := reader.read(min(left, BLOCK))):
                writer.write(block)
                left -= len(block)

    def seal(self, name: str) -> Content:
        """Compute the checksums of an incoming file and move it to `data/`.

        The row that points to it is committed afterwards: a kill in between leaves a file
        that nothing points to, which `collect` removes at the next start.
        """
        path = self.incoming(name)
        crc32c, md5, size = google_crc32c.Checksum(), hashlib.md5(usedforsecurity=False), 0
        with path.open("rb") as reader:
            while block := reader.read(BLOCK):
                crc32c.update(block)
                md5.update(block)
                size += len(block)
        path.replace(self.sealed(name))
        return Content(name, size, _base64(crc32c.digest()), _base64(md5.digest()))

    def reopen(self, names: Iterable[str]) -> None:
        """Move files back to `incoming/` that were sealed, but killed before the commit."""
        for name in names:
            if self.sealed(name).exists():
                self.sealed(name).replace(self.incoming(name))

    def discard(self, names: Iterable[str]) -> None:
        """Remove files, wherever they are; those that are gone already are no matter."""
        for name in names:
            self.incoming(name).unlink(missing_ok=True)
            self.sealed(name).unlink(missing_ok=True)

    def collect(self, kept: Collection[str]) -> None:
        """Remove every file that is not in `kept`: what a kill left behind."""
        found = [*self._incoming.iterdir(), *self._data.iterdir()]
        self.discard(path.name for path in found if path.name not in kept)


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
