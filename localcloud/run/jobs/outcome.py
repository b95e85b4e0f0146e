"""How an attempt of a task ended, in the codes and the words of Cloud Run.

The words for an exit code and for the timeout are those that Cloud Run was seen to use; those
for a signal and for memory are its logs', and not seen in an execution's condition.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.rpc import code_pb2


@dataclass(frozen=True)
class Outcome:
    """`code` is a google.rpc code, 0 for success; at most one of the two numbers is set."""

    code: int
    message: str = ""
    exit_code: int = 0
    signal: int = 0

    @property
    def succeeded(self) -> bool:
        return self.code == 0


TIMED_OUT = Outcome(code_pb2.DEADLINE_EXCEEDED, "The configured timeout was reached.")
CANCELLED = Outcome(code_pb2.CANCELLED, "Cancelled by user.")


def of_exit(return_code: int) -> Outcome:
    """Return the outcome of a process that ended by itself; below 0: by that signal."""
    if return_code == 0:
        return Outcome(code_pb2.OK)
    if return_code < 0:
        why = f"Container terminated on signal {-return_code}."
        return Outcome(code_pb2.ABORTED, why, signal=-return_code)
    return Outcome(code_pb2.ABORTED, "The container exited with an error.", exit_code=return_code)


def out_of_memory(limit_bytes: int, used_bytes: int) -> Outcome:
    """Return the outcome of a task that was killed for what memory it used."""
    return Outcome(
        code_pb2.ABORTED,
        f"Memory limit of {limit_bytes >> 20} MiB exceeded with {used_bytes >> 20} MiB used.",
        signal=9,
    )


def not_started(why: str) -> Outcome:
    """Return the outcome of an attempt for which no process could be started."""
    return Outcome(code_pb2.INTERNAL, f"The container cannot be started: {why}.")


def failure(task_id: str, outcome: Outcome) -> str:
    """Return what a failed task's execution and its operation say."""
    return f"Task {task_id} failed with exit code: {outcome.exit_code} and message: " + (
        outcome.message
    )


def duration(nanoseconds: int) -> str:
    """Return a duration as Cloud Run writes it: 38.22s, 1m22.78s, 1h0m3.5s."""
    minutes, hundredths = divmod(max(0, nanoseconds) // 10_000_000, 6000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{hundredths / 100:.2f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds
