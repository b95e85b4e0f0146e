"""What a model's Cloud Run service itself remembers, so that lost documents can be told from it.

Annotations that each write of traffic leaves on the service, and each template on its revision.
They are read where Firestore was restored to an earlier time, or lost: see `recovery`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from shared.domain.deployment import Deployment
from shared.domain.traffic import Split, version_of

TOKEN = "turnout/fencing-token"
LIVED = "turnout/versions-that-lived"
DEPLOYMENT = "turnout/deployment"
METRICS = "turnout/metrics"
REQUESTED_BY = "turnout/requested-by"
LIVED_AT_MOST = 100


def marks_of_traffic(before: Mapping[str, str], split: Split, token: int) -> dict[str, str]:
    """Return the service's annotations after a write of `split` under `token`.

    The token makes even an unchanged split a change. A version that is given all of the
    traffic goes to the end of those that lived, so that their order is that of the last time
    at which each was live.
    """
    marks = {**before, TOKEN: str(token)}
    lived = [number for name in split for number in _number(name)] if len(split) == 1 else []
    if lived:
        others = [number for number in lived_of(before) if number not in lived]
        marks[LIVED] = " ".join(str(number) for number in [*others, *lived][-LIVED_AT_MOST:])
    return marks


def marks_of_revision(deployment: Deployment) -> dict[str, str]:
    """Return the annotations of a deployment's revision: what Cloud Run does not keep anyway."""
    return {
        DEPLOYMENT: deployment.id,
        METRICS: json.dumps(dict(deployment.metrics), sort_keys=True),
        REQUESTED_BY: deployment.deployed_by,
    }


def token_of(annotations: Mapping[str, str]) -> int:
    """Return the fencing token of the last write of traffic; 0 before the first."""
    text = annotations.get(TOKEN, "")
    return int(text) if text.isdecimal() else 0


def lived_of(annotations: Mapping[str, str]) -> tuple[int, ...]:
    """Return the versions that had all of the traffic, the one that had it last at the end."""
    return tuple(int(word) for word in annotations.get(LIVED, "").split() if word.isdecimal())


def metrics_of(annotations: Mapping[str, str]) -> dict[str, float]:
    """Return the metrics that a revision's training run reported; empty where none are kept."""
    try:
        found = json.loads(annotations.get(METRICS, "{}"))
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): float(value) for name, value in found.items() if _is_number(value)}


def _number(revision: str) -> list[int]:
    """Return the version's number of a revision that the pipeline made; v0 is none."""
    name = version_of(revision)
    number = int(name[1:]) if name != revision else 0
    return [number] if number else []


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
