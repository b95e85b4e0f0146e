"""What people in a chat read of an event: one line, and links to pages that ask first.

Slack, Google Chat and Mattermost show plain text and make bare URLs links; what else they
make of a text differs, so nothing else is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from shared.domain.announcement import Announcement
from shared.domain.canary import Verdict
from shared.domain.deployment import Event, Status
from shared.domain.traffic import version_of

SAID_AT_MOST = 300


class Link(Enum):
    """A page that a line leads to: what it is called, and where it lies below the dashboard."""

    VIEW = ("View", "deployments/{deployment}")
    APPROVE = ("Approve or skip", "deployments/{deployment}#decide")
    CANCEL = ("Cancel", "deployments/{deployment}/cancel")
    BACK = ("Roll back", "models/{model}/rollback")
    MODEL = ("View", "models/{model}")


@dataclass(frozen=True)
class Line:
    """How one action is told; `{...}` are fields of the event, `links` what to do about it."""

    said: str
    links: tuple[Link, ...]


LINES: Mapping[str, Line] = {
    "requested": Line("{subject} (run {run}) was asked for by {actor}: {reason}", (Link.VIEW,)),
    "started": Line("{subject} is being deployed", (Link.VIEW, Link.CANCEL)),
    "traffic wanted": Line(
        "{subject} takes the next share of traffic: {traffic}", (Link.VIEW, Link.CANCEL)
    ),
    "holding": Line("{subject} {reason}", (Link.VIEW, Link.APPROVE, Link.CANCEL)),
    "judged": Line("{subject} does worse than live: {reason}", (Link.VIEW, Link.CANCEL)),
    "active": Line("{subject} is live with all of the traffic", (Link.VIEW, Link.BACK)),
    "failed": Line("{subject} failed, traffic goes back: {reason}", (Link.VIEW,)),
    "cancelled": Line("{subject} does not go on: {reason}", (Link.VIEW,)),
    "rollback": Line("{subject} has all of the traffic again, by {actor}: {reason}", (Link.MODEL,)),
    "drift found": Line(
        "{subject}: somebody else moved the traffic: {reason}", (Link.MODEL, Link.BACK)
    ),
    "recovered": Line(
        "{subject}: documents were corrected to what is served, by {actor}", (Link.MODEL,)
    ),
    "traffic put back": Line("{subject}: traffic was put back: {reason}", (Link.MODEL,)),
}
"""The actions that people want to hear of. The statuses that a rollback moves are left out:
the rollback itself says it all in one line. What cannot be judged is told when it is held for
that, or given up: at the begin of a stage that is so every time."""


def message_of(told: Announcement, dashboard_url: str) -> str | None:
    """Return the message, or None for what people need not hear of."""
    event = told.event
    line = LINES.get(event.action)
    if line is None or not _is_worth_it(event):
        return None
    said = line.said.format(
        subject=harmless(told.subject),
        run=told.training_run or "?",
        actor=harmless(event.actor),
        reason=harmless(event.reason) or "no reason given",
        traffic=harmless(_traffic(event.traffic)),
    )
    links = [_url(link, told, dashboard_url) for link in line.links]
    return "\n".join([said, *links])


def harmless(text: str) -> str:
    """Return text from outside as one short line that mentions nobody and formats nothing.

    Angle brackets make links and mentions in Slack and Google Chat, square ones links in
    Mattermost, where also an @ at the begin of a word calls people.
    """
    line = " ".join(_MENTION.sub("\uff20", text.translate(_LOOK_ALIKES)).split())
    return line if len(line) <= SAID_AT_MOST else f"{line[: SAID_AT_MOST - 1]}…"


_LOOK_ALIKES = str.maketrans({"<": "\u2039", ">": "\u203a", "[": "(", "]": ")", "`": "'"})
_MENTION = re.compile(r"(?<!\w)@")


def _is_worth_it(event: Event) -> bool:
    if event.action == "active":
        return event.before == Status.DEPLOYING
    return event.action != "judged" or event.reason.startswith(Verdict.FAIL)


def _traffic(traffic: Mapping[str, int]) -> str:
    """Return `v4 10 %, v3 90 %`."""
    shares = sorted(traffic.items(), key=lambda item: (item[1], item[0]))
    return ", ".join(f"{version_of(revision)} {percent} %" for revision, percent in shares)


def _url(link: Link, told: Announcement, dashboard_url: str) -> str:
    title, place = link.value
    path = place.format(deployment=told.event.deployment_id, model=told.event.model_id)
    return f"{title}: {dashboard_url}/{path}"
