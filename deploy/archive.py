"""Archives whose bytes depend on their files' names and contents alone."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

#: The first moment that a zip can name.
_WHEN = (1980, 1, 1, 0, 0, 0)
_UNIX, _FILE_MODE = 3, 0o100644


def write_archive(prefix: str, files: Mapping[str, bytes], folder: Path) -> Path:
    """Write `folder/PREFIX-HASH.zip` and return its path; HASH: 12 digits of its SHA-256.

    Nothing is compressed: other versions of zlib write other bytes for the same content.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unnamed = folder / f"{prefix}.zip.part"
    with zipfile.ZipFile(unnamed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _WHEN)
            entry.create_system = _UNIX
            entry.external_attr = _FILE_MODE << 16
            archive.writestr(entry, files[name])
    digest = hashlib.sha256(unnamed.read_bytes()).hexdigest()
    return unnamed.replace(folder / f"{prefix}-{digest[:12]}.zip")
