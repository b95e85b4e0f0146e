"""Run as a script: become a container's command, bound to the life of the local cloud.

`python launch.py PARENT_PID COMMAND…`. On Linux the kernel kills this process when its
parent dies, however it dies. Not done with `preexec_fn`: code between fork and exec may
deadlock in a process that has threads.
"""

import os
import sys

PR_SET_PDEATHSIG = 1
SIGKILL = 9


def main() -> None:
    """Ask for the signal, check that the parent has not died meanwhile, then exec."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]!r}: {error}\n")
        sys.exit(127)


main()
