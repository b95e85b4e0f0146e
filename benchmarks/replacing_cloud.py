"""A local cloud that replaces the live instance: `python -m benchmarks.replacing_cloud FOLDER`.

Cloud Run stops instances when it likes: new requests go elsewhere, SIGTERM is sent, and what is in
flight is finished. No API asks for it, so this one is asked by SIGUSR1.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from benchmarks.counted_cloud import stay
from localcloud.server import LocalCloud
from shared import wiring
from turnout.demo import SERVICE


class ReplacingCloud(LocalCloud):
    """The same cloud, which replaces instances when it is asked to."""

    def replace_live(self) -> None:
        """Replace the instance of each revision that has a share of the demo's traffic."""
        for revision in wiring.cloud_run().service(SERVICE).split:
            self._run.replace_instance(SERVICE, revision)


def main(folder: Path) -> None:
    """Run until SIGTERM or SIGINT; replace at every SIGUSR1."""
    cloud = ReplacingCloud(folder)
    # Before the start, which tells others that the cloud may be asked.
    signal.signal(signal.SIGUSR1, lambda *_: cloud.replace_live())
    stay(cloud)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
