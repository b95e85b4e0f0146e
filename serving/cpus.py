"""How many CPUs the container was given."""

from __future__ import annotations

import math
import os
from pathlib import Path


def cpus_given(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the CPUs this process may use, at least 1.

    A container's limit is a quota of time (`cpu.max`: microseconds, period), which the count of
    the machine's CPUs does not show.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return count
    if quota == "max":
        return count
    return max(1, min(count, math.ceil(int(quota) / int(period))))
