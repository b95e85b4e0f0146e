"""Which part calls which method of which service: counted, and kept beside the other data.

Google's services know a caller by its access token. The emulators' clients send none, so here a
caller is known by the listener that it was told of: each kind of container has its own, and so do
the functions, whose host names the function in each call (`localcloud.functions.stamps`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from localcloud.database import Database

CALLER = "x-localcloud-caller"
FILE = "calls.sqlite"
#: Whoever was told of the public endpoints: people, their command line, tests.
PERSON = "person"
#: A call of the functions' process that no function was at work on.
NO_FUNCTION = "no function"
_FLUSH_S = 1.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    caller TEXT NOT NULL, method TEXT NOT NULL, detail TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (caller, method, detail)
) WITHOUT ROWID;
"""


class Call(NamedTuple):
    """A method as its API names it, and what of the request decides on the permission."""

    caller: str
    method: str
    detail: str


class Calls:
    """Counts calls in a file that several processes may add to.

    What is new is on disk before its answer leaves; the counts of what is known follow within
    a second, or with the next call.
    """

    def __init__(self, folder: Path) -> None:
        self._database = Database(folder / FILE, _SCHEMA)
        self._lock = threading.Lock()
        self._known: set[Call] = set()
        self._counts: Counter[Call] = Counter()
        self._flushed = time.monotonic()

    def note(self, caller: str, method: str, detail: str = "") -> None:
        """Count one call."""
        call = Call(caller, method, detail)
        with self._lock:
            self._counts[call] += 1
            if call not in self._known or time.monotonic() - self._flushed > _FLUSH_S:
                self._flush()

    def counted(self) -> dict[Call, int]:
        """Return how often each was made, in order of caller and method."""
        with self._lock:
            self._flush()
        rows = self._database.rows("SELECT * FROM calls ORDER BY caller, method, detail")
        return {Call(row["caller"], row["method"], row["detail"]): row["count"] for row in rows}

    def close(self) -> None:
        """Write what is counted and close the file."""
        with self._lock:
            self._flush()
            self._database.close()

    def _flush(self) -> None:
        with self._database.transaction() as database:
            database.executemany(
                "INSERT INTO calls VALUES (?, ?, ?, ?) ON CONFLICT (caller, method, detail)"
                " DO UPDATE SET count = count + excluded.count",
                [(*call, count) for call, count in self._counts.items()],
            )
        self._known.update(self._counts)
        self._counts.clear()
        self._flushed = time.monotonic()


def read(folder: Path) -> dict[Call, int]:
    """Return what was counted in a local cloud's data folder, in order of caller and method.

    It may be running. FileNotFoundError where there never was one.
    """
    if not (folder / FILE).exists():
        raise FileNotFoundError(f"no local cloud has run in {folder}")
    counted: Counter[Call] = Counter()
    for beside in (folder, folder / "functions"):
        if (beside / FILE).exists():
            with closing(Calls(beside)) as calls:
                counted.update(calls.counted())
    return dict(sorted(counted.items()))
