"""What a server's processes use: memory and CPU time of a process and all its children."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import psutil

_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ (?P<device>\S+) (?P<inode>\d+)\s*(?P<path>.*)")
# Memory that has a name: counted as shared memory, not as a file.
_NAMED_MEMORY = ("/dev/shm", "/memfd", "/SYSV", "/dev/zero")


def processes(pid: int) -> list[psutil.Process]:
    """Return the process and its children, without those that have just ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(pid: int) -> float:
    """Return the CPU time used so far by all of them, in seconds."""
    total = 0.0
    for process in processes(pid):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def memory_mb(pid: int) -> float:
    """Return their proportional set size (PSS), as if nobody else ran on the machine, in MB.

    Pages that they share with each other count once. A library's pages that some other process
    has mapped too count in full: alone in a container, they would be this one's.
    """
    kilobytes = 0
    files: dict[tuple[str, str], int] = {}
    for process in processes(pid):
        # A child may end while its files are read.
        with suppress(FileNotFoundError, ProcessLookupError):
            folder = Path("/proc") / str(process.pid)
            own = _own_files((folder / "smaps").read_text())
            rollup = (folder / "smaps_rollup").read_text()
            kilobytes += _field(rollup, "Pss_Anon") + _field(rollup, "Pss_Shmem")
            for file, size in own.items():
                files[file] = max(files.get(file, 0), size)
    return (kilobytes + sum(files.values())) * 1024 / 1e6


def _own_files(smaps: str) -> dict[tuple[str, str], int]:
    """Return how much of each mapped file is in memory, in KB, without private changes."""
    found: dict[tuple[str, str], int] = {}
    current: tuple[str, str] | None = None
    for line in smaps.splitlines():
        mapping = _MAPPING.fullmatch(line)
        if mapping:
            named = mapping["path"].startswith(_NAMED_MEMORY)
            current = None if mapping["inode"] == "0" or named else mapping.group(1, 2)
        elif current and line.startswith("Rss:"):
            found[current] = found.get(current, 0) + int(line.split()[1])
        elif current and line.startswith("Anonymous:"):
            found[current] -= int(line.split()[1])
    return found


def _field(rollup: str, name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB", rollup, re.MULTILINE)
    return int(match[1]) if match else 0
