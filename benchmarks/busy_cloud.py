"""A local cloud for many revisions under load: `python -m benchmarks.busy_cloud FOLDER MODELS`.

It notes every call of Cloud Run's API in `FOLDER/run-calls.log`, replaces the live instance at
SIGUSR1 (see replacing_cloud.py), and ends the instance of a revision without traffic after a few
minutes rather than a quarter of an hour: dozens of them would fill the machine.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import grpc

from benchmarks.counted_cloud import Counted, stay
from benchmarks.replacing_cloud import ReplacingCloud

CALLS = "run-calls.log"
IDLE_TIMEOUT_S = 180.0


class BusyCloud(ReplacingCloud):
    """The same cloud: counting, replacing, and keeping fewer idle instances."""

    def _serve_grpc(self, address: str) -> grpc.Server:
        run: Any = self._run
        run._fleet._idle_timeout_s = IDLE_TIMEOUT_S
        self._run: Any = Counted(run, self.folder / CALLS)
        return super()._serve_grpc(address)


def main(folder: Path, models: Path) -> None:
    """Run until SIGTERM or SIGINT; replace at every SIGUSR1."""
    cloud = BusyCloud(folder, models)
    # Before the start, which tells others that the cloud may be asked.
    signal.signal(signal.SIGUSR1, lambda *_: cloud.replace_live())
    stay(cloud)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
