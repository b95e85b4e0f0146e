"""Run as a script: kill the process groups named on standard input once it ends.

The local cloud holds the other end of the pipe, which the kernel closes when the local cloud
dies, by `kill -9` too. Lines are `+PGID` and `-PGID`. This reaches what a container's process
has started in turn, on every system; `launch.py` alone would leave those running.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Keep the set of groups; at the end of input kill them all."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


main()
