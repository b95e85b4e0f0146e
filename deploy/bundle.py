"""The functions' source bundle: what Cloud Functions' Python buildpack builds all of them from.

What gets in is found without git and without lists, so nothing gets in by lying around:

- code, by import: `functions/main.py`, and what it imports of `functions` and `shared`, and so on;
- data, by mention: a file beside that code whose name stands in quotes in one of these files;
- `functions/requirements.txt`.

The buildpack wants `main.py` and `requirements.txt` at the root, so these two lie there.
"""

from __future__ import annotations

import re
from pathlib import Path

from deploy.archive import write_archive
from deploy.imports import imported

ENTRY = "functions/main.py"
REQUIREMENTS = "functions/requirements.txt"
_AT_ROOT = {ENTRY: "main.py", REQUIREMENTS: "requirements.txt"}
_DATA = (".css", ".html", ".js", ".json", ".svg")


def write_bundle(root: Path, folder: Path) -> Path:
    """Write `folder/bundle-HASH.zip` from the checkout at `root`; NotBuilt."""
    contents = {_AT_ROOT.get(name, name): (root / name).read_bytes() for name in bundled(root)}
    return write_archive("bundle", contents, folder)


def bundled(root: Path) -> list[str]:
    """Return the files that the bundle is made of, sorted, relative to `root`; NotBuilt."""
    code = imported(root, [ENTRY], ["functions", "shared"])
    return sorted({*code, *_mentioned(root, code), REQUIREMENTS})


def _mentioned(root: Path, code: set[str]) -> set[str]:
    folders = {root / Path(name).parent for name in code}
    near = {
        path.relative_to(root).as_posix(): path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in _DATA and path.is_file() and not path.is_symlink()
    }
    texts = [(root / name).read_text() for name in code]
    pages = [path.read_text() for path in near.values() if path.suffix == ".html"]
    quoted = set(re.findall(r"""["'](?:[\w./-]*/)?([\w.-]+)["']""", "\n".join(texts + pages)))
    return {name for name, path in near.items() if path.name in quoted}
