"""Google's message classes in their raw protobuf form, and the few values made of them."""

from __future__ import annotations

import time
from typing import Any

from google.cloud import run_v2
from google.protobuf import timestamp_pb2

Service: Any = run_v2.Service.pb()
Revision: Any = run_v2.Revision.pb()
RevisionTemplate: Any = run_v2.RevisionTemplate.pb()
TrafficTarget: Any = run_v2.TrafficTarget.pb()
TrafficTargetStatus: Any = run_v2.TrafficTargetStatus.pb()
Condition: Any = run_v2.Condition.pb()
Probe: Any = run_v2.Probe.pb()
Job: Any = run_v2.Job.pb()
Execution: Any = run_v2.Execution.pb()
Task: Any = run_v2.Task.pb()

LATEST = int(run_v2.TrafficTargetAllocationType.TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST)
BY_REVISION = int(run_v2.TrafficTargetAllocationType.TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION)

PENDING = int(run_v2.Condition.State.CONDITION_PENDING)
RECONCILING = int(run_v2.Condition.State.CONDITION_RECONCILING)
FAILED = int(run_v2.Condition.State.CONDITION_FAILED)
SUCCEEDED = int(run_v2.Condition.State.CONDITION_SUCCEEDED)

_REVISION_REASONS: Any = run_v2.Condition.RevisionReason.__members__
_EXECUTION_REASONS: Any = run_v2.Condition.ExecutionReason.__members__
_COMMON_REASONS: Any = run_v2.Condition.CommonReason.__members__


def now() -> timestamp_pb2.Timestamp:
    """Return the present moment as the API writes it."""
    return moment(time.time_ns())


def moment(unix_ns: int) -> timestamp_pb2.Timestamp:
    """Return a Unix time in nanoseconds as the API writes it."""
    stamp = timestamp_pb2.Timestamp()
    stamp.FromNanoseconds(unix_ns)
    return stamp


def condition(kind: str, state: int, message: str = "", reason: str = "", since: Any = None) -> Any:
    """Return a condition; `reason` is a name of one of the API's kinds of reasons."""
    made = Condition(type_=kind, state=state, message=message)
    made.last_transition_time.CopyFrom(since if since is not None else now())
    if reason in _REVISION_REASONS:
        made.revision_reason = _REVISION_REASONS[reason]
    elif reason in _EXECUTION_REASONS:
        made.execution_reason = _EXECUTION_REASONS[reason]
    elif reason:
        made.reason = _COMMON_REASONS[reason]
    return made
