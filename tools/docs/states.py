"""docs/states.svg: the state machine of a deployment, drawn from its table of transitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from shared.domain.deployment import TRANSITIONS, Status

LEFT, WIDTH, HEIGHT = -60, 840, 290
BOX_WIDTH, BOX_HEIGHT = 130, 44

PLACES: Mapping[Status, tuple[int, int]] = {
    Status.DEPLOYING: (110, 60),
    Status.ACTIVE: (400, 60),
    Status.INACTIVE: (690, 60),
    Status.ROLLED_BACK: (690, 250),
    Status.FAILED: (110, 250),
    Status.CANCELLED: (330, 250),
}
"""The middle of each state's box."""


@dataclass(frozen=True)
class Arrow:
    """How a transition is drawn: its path, its name by lines, and where these stand."""

    path: str
    says: tuple[str, ...]
    x: int
    y: int
    anchor: str = "middle"


ARROWS: Mapping[tuple[Status, Status], Arrow] = {
    (Status.DEPLOYING, Status.ACTIVE): Arrow("M175 60 H331", ("all steps passed",), 253, 50),
    (Status.DEPLOYING, Status.FAILED): Arrow(
        "M90 82 V224", ("a check, a step or", "the judge said no"), 82, 150, "end"
    ),
    (Status.DEPLOYING, Status.CANCELLED): Arrow(
        "M135 82 L301 225", ("a person stopped it,", "or a newer run passed it"), 232, 140, "start"
    ),
    (Status.ACTIVE, Status.INACTIVE): Arrow("M465 50 H621", ("a newer one took over",), 543, 40),
    (Status.INACTIVE, Status.ACTIVE): Arrow("M625 70 H469", ("rolled back to",), 547, 90),
    (Status.ACTIVE, Status.ROLLED_BACK): Arrow(
        "M420 82 L640 225", ("rolled back from",), 500, 195, "middle"
    ),
    (Status.ROLLED_BACK, Status.ACTIVE): Arrow(
        "M690 228 L466 84", ("rolled back to",), 625, 150, "start"
    ),
}

_STYLE = """
  svg { background: #ffffff }
  .box { fill: #ffffff; stroke: #3c4858; stroke-width: 1.5 }
  .end { stroke-dasharray: 5 3 }
  .now { stroke-width: 3 }
  .line { fill: none; stroke: #3c4858; stroke-width: 1.5; marker-end: url(#tip) }
  .tip { fill: #3c4858 }
  text { font: 13px system-ui, sans-serif; fill: #1d2530 }
  .name { font-weight: 600; font-size: 15px; text-anchor: middle }
  @media (prefers-color-scheme: dark) {
    svg { background: #1b1f27 }
    .box { fill: #262c36; stroke: #aeb9c7 }
    .line { stroke: #aeb9c7 }
    .tip { fill: #aeb9c7 }
    text { fill: #e8ecf2 }
  }
"""


def drawing() -> str:
    """Return the SVG; ValueError where table and drawing do not name the same transitions."""
    listed = {(before, after) for before, found in TRANSITIONS.items() for after in found}
    if listed != set(ARROWS):
        raise ValueError(f"draw these in tools/docs/states.py: {sorted(listed ^ set(ARROWS))}")
    said = "; ".join(f"{before} to {after}" for before, after in ARROWS)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{LEFT} 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>The states of a deployment: {said}</title>",
        f"<style>{_STYLE}</style>",
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto">'
        '<path class="tip" d="M0 0 L8 4 L0 8 z"/></marker></defs>',
        *(_arrow(arrow) for arrow in ARROWS.values()),
        *(_box(status) for status in PLACES),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _arrow(arrow: Arrow) -> str:
    words = "".join(
        f'<text x="{arrow.x}" y="{arrow.y + 17 * number}" text-anchor="{arrow.anchor}">'
        f"{escape(line)}</text>"
        for number, line in enumerate(arrow.says)
    )
    return f'<path class="line" d="{arrow.path}"/>{words}'


def _box(status: Status) -> str:
    x, y = PLACES[status]
    kind = "now" if status is Status.ACTIVE else "" if TRANSITIONS[status] else "end"
    return (
        f'<rect class="box {kind}" x="{x - BOX_WIDTH // 2}" y="{y - BOX_HEIGHT // 2}" '
        f'width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8"/>'
        f'<text class="name" x="{x}" y="{y + 5}">{status.value}</text>'
    )
