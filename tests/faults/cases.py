"""Which faults strike where: the matrix, made from the calls that fault-free runs were seen to do.

A `Rule` names one call of one function; a `Case` is a rule in the course of a `Story`, which is
what happens to a model: see `tests.faults.stories`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Not calls: the function is entered, and its answer is ready but not yet sent.
BEGINS, ENDS = "it begins", "it ends"
FOR_EVER = 10**6
# What names the calling function, in gRPC metadata and HTTP headers.
MARK = "x-test-function"

KILL_FUNCTION = "SIGKILL of the function"
KILL_CLOUD = "SIGKILL of the cloud"
UNAVAILABLE = "UNAVAILABLE"
CONFLICT = "conflict"
SILENT = "no answer"
SLOW = "slow"
REFUSED = "refused"
OUTAGE = "outage"
FAULTS = (KILL_FUNCTION, KILL_CLOUD, UNAVAILABLE, CONFLICT, SILENT, SLOW, REFUSED, OUTAGE)

WRITES = frozenset(
    {
        "Firestore.Commit",
        "Run.UpdateService",
        "RunJobs.RunJob",
        "Workflows.CreateExecution",
        "Workflows.CancelExecution",
        "Storage.insert",
        "Storage.rewrite",
    }
)
# Firestore's reads are met as each function's first call.
READS = frozenset(
    {
        "Run.GetService",
        "Run.GetRevision",
        "RunExecutions.GetExecution",
        "Workflows.GetExecution",
        "Storage.list",
        "Storage.read",
        "Model.health",
        "Model.recommend",
    }
)
# No deadline is seen over HTTP, so such a case lasts as long as the client waits: only these.
SILENT_HTTP = (("copy_artifacts", "Storage.rewrite"), ("check_health", "Model.health"))


@dataclass(frozen=True)
class Rule:
    """Strike `times` calls of `method` by `function`, from its `number`-th on (1 is the first).

    `moment` is "before" (it has done nothing) or "after" (it has done everything, the caller
    does not know yet). With method "" all calls of the function count.
    """

    function: str
    method: str
    fault: str
    number: int = 1
    moment: str = "before"
    times: int = 1

    @classmethod
    def read(cls, fields: Any) -> Rule:
        """Return the rule that `fields` describes."""
        return cls(**fields)

    def fields(self) -> dict[str, Any]:
        """Return it as JSON can carry it."""
        return asdict(self)

    @property
    def where(self) -> str:
        """Say at which call."""
        if not self.method:
            return "in all calls"
        if self.method in (BEGINS, ENDS):
            return f"as {self.method}"
        many = " and all later" if self.times == FOR_EVER else ""
        return f"{self.moment} {self.method} {self.number}{many}"


@dataclass(frozen=True)
class Case:
    """One fault in one story."""

    story: str
    rule: Rule

    @property
    def name(self) -> str:
        """Say it in a line."""
        return f"{self.rule.function}, {self.rule.where}: {self.rule.fault}"


@dataclass(frozen=True)
class Call:
    """One call that was seen: `number` counts the calls of that method by that function."""

    function: str
    method: str
    number: int


def matrix(
    story: str, function: str, seen: Sequence[Call], methods: frozenset[str] = frozenset()
) -> list[Case]:
    """Return every case of `function` in a story whose fault-free run did the calls `seen`.

    With `methods` only those that strike one of them.
    """
    calls = [
        call for call in seen if call.function == function and call.method not in (BEGINS, ENDS)
    ]
    writes = [call for call in calls if call.method in (methods or WRITES)]
    rules = dict.fromkeys(
        [
            *_kills(function, calls, writes),
            *_errors(function, calls, writes),
            Rule(function, "", SLOW, times=FOR_EVER),
        ]
    )
    return [Case(story, rule) for rule in rules if not methods or rule.method in methods]


def _kills(function: str, calls: Sequence[Call], writes: Sequence[Call]) -> Iterator[Rule]:
    """Kill it before it did anything, around each write, and before it answers."""
    yield Rule(function, BEGINS, KILL_FUNCTION)
    for call in _firsts(writes, calls[:1]):
        if call.method != "Firestore.Commit":
            yield Rule(function, call.method, KILL_FUNCTION)
    for call in _some(writes):
        yield Rule(function, call.method, KILL_FUNCTION, call.number, "after")
    for call in _firsts(writes):
        if not call.method.startswith("Storage."):
            yield Rule(function, call.method, KILL_CLOUD, 1, "after")
    yield Rule(function, ENDS, KILL_FUNCTION)
    yield Rule(function, ENDS, KILL_CLOUD)


def _errors(function: str, calls: Sequence[Call], writes: Sequence[Call]) -> Iterator[Rule]:
    """Answer instead of each kind of call, and in place of the answer to each kind of write."""
    reads = [call for call in calls if call.method in READS]
    for call in _firsts(writes, reads, calls[:1]):
        yield Rule(function, call.method, UNAVAILABLE)
        over_http = call.method.startswith(("Storage.", "Model."))
        if (call in reads and not over_http) or (function, call.method) in SILENT_HTTP:
            yield Rule(function, call.method, SILENT)
    for call in _firsts(writes):
        yield Rule(function, call.method, CONFLICT)
        yield Rule(function, call.method, UNAVAILABLE, 1, "after")
        if not call.method.startswith("Storage."):
            yield Rule(function, call.method, SILENT, 1, "after")


def _firsts(*calls: Sequence[Call]) -> list[Call]:
    """Return the first call of each method."""
    return [call for some in calls for call in some if call.number == 1]


def _some(writes: Sequence[Call]) -> list[Call]:
    """Return each method's first two calls; of copies, which are alike, only the first."""
    return [
        call
        for call in writes
        if call.number == 1 or (call.method != "Storage.rewrite" and call.number == 2)
    ]


# What cannot pass within the tries that the workflow has, or is refused: these must be undone.
HOPELESS = (
    Case("deploy", Rule("create_revision", "Run.UpdateService", REFUSED)),
    Case("deploy", Rule("create_revision", "Run.UpdateService", REFUSED, 2)),
    Case("deploy", Rule("shift_traffic", "Run.UpdateService", REFUSED)),
    Case("deploy", Rule("shift_traffic", "Run.UpdateService", REFUSED, 2)),
    Case("deploy", Rule("prepare_model", "RunJobs.RunJob", OUTAGE, times=FOR_EVER)),
    Case("deploy", Rule("shift_traffic", "Run.UpdateService", OUTAGE, 2, times=FOR_EVER)),
)

# One for each function and each kind of fault at least, quick, and independent of how often a
# function happens to call what.
CHOSEN = (
    Case("deploy", Rule("on_training_completed", "Workflows.CreateExecution", UNAVAILABLE, 1)),
    Case("deploy", Rule("claim_deployment", ENDS, KILL_FUNCTION)),
    Case("deploy", Rule("copy_artifacts", "Storage.rewrite", UNAVAILABLE, 1, "after")),
    Case("deploy", Rule("prepare_model", "RunJobs.RunJob", KILL_FUNCTION, 1, "after")),
    Case("deploy", Rule("create_revision", "Run.UpdateService", KILL_CLOUD, 1, "after")),
    Case("deploy", Rule("create_revision", "Run.UpdateService", CONFLICT)),
    Case("deploy", Rule("check_health", "", SLOW, times=FOR_EVER)),
    Case("deploy", Rule("shift_traffic", "Run.UpdateService", KILL_FUNCTION, 1, "after")),
    Case("deploy", Rule("judge_canary", "Firestore.BatchGetDocuments", UNAVAILABLE)),
    Case("deploy", Rule("finish_deployment", "Firestore.Commit", SILENT, 1, "after")),
    Case("abort", Rule("abort_deployment", "Run.UpdateService", KILL_FUNCTION)),
    Case("roll back", Rule("roll_back", "Run.UpdateService", KILL_FUNCTION)),
    Case("cancel", Rule("cancel", "Run.UpdateService", KILL_CLOUD)),
    Case("reconcile", Rule("reconcile", "Run.UpdateService", KILL_FUNCTION, 1, "after")),
)


def sample(cases: Sequence[Case], seed: int, of_each: int) -> list[Case]:
    """Return `of_each` cases of each function and story, in their order."""
    draw = random.Random(seed)
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.story, case.rule.function), []).append(case)
    drawn = {
        case for group in groups.values() for case in draw.sample(group, min(of_each, len(group)))
    }
    return [case for case in cases if case in drawn]
