"""Runs the branches or iterations of a parallel step, each in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localcloud.workflows import limits
from localcloud.workflows.errors import WorkflowError
from localcloud.workflows.values import copy


@dataclass(frozen=True)
class Branch:
    """One branch (its name) or iteration (its index) and what it does."""

    id: str
    run: Callable[[], object]


def run_together(branches: Sequence[Branch], limit: int) -> None:
    """Run all branches, `limit` at a time, to their ends, whichever of them fail (continueAll).

    Raises UnhandledBranchError with what each failed branch raised. Anything else, such as
    Cancelled, is raised as it is once no branch runs any more; none is begun after it.
    """
    waiting = iter(range(len(branches)))
    lock = threading.Lock()
    errors: dict[int, WorkflowError] = {}
    broken: list[BaseException] = []

    def worker() -> None:
        while not broken:
            with lock:
                number = next(waiting, None)
            if number is None:
                return
            try:
                branches[number].run()
            except WorkflowError as wrong:
                errors[number] = wrong
            except BaseException as wrong:
                broken.append(wrong)

    threads = [
        threading.Thread(target=worker, name="workflow-branch", daemon=True)
        for _ in range(min(limit, len(branches)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if broken:
        raise broken[0]
    if errors:
        raise _unhandled(branches, errors)


def _unhandled(branches: Sequence[Branch], errors: dict[int, WorkflowError]) -> WorkflowError:
    collected = sorted(errors.items())[: limits.COLLECTED_ERRORS]
    return WorkflowError(
        {
            "message": "UnhandledBranchError: One or more branches or iterations encountered "
            "an unhandled runtime error",
            "tags": ["UnhandledBranchError", "RuntimeError"],
            "branches": [
                {"id": branches[number].id, "error": copy(error.value)}
                for number, error in collected
            ],
            "truncated": len(errors) > limits.COLLECTED_ERRORS,
        }
    )
