"""Figures that the pages repeat are those of the measurement's own file."""

from __future__ import annotations

import json
import re

from benchmarks.rollback import RESULTS, quantile
from tests.docs.pages import ROOT


def test_rollbacks_of_the_front_page_are_the_measured_ones() -> None:
    found = json.loads(RESULTS.read_text())["rollbacks"]
    unchecked, checked = found["without the check"], found["all traffic, checked"]
    requests = unchecked["requests"] + checked["requests"]
    failed = unchecked["failed"] + checked["failed"]
    [row] = re.findall(r"^\| \*\*Back in a moment\*\* .+$", (ROOT / "README.md").read_text(), re.M)
    for said in (
        f"{unchecked['rollbacks']} rollbacks",
        f"{found['midway']['rollbacks']} of them in the middle",
        f"{quantile(unchecked['last_answer_s'], 0.5):.2f} s in the median",
        f"{quantile(unchecked['last_answer_s'], 0.99):.2f} s at p99",
        f"{checked['rollbacks']} more that ask first",
        f"{'none' if failed == 0 else failed} of {requests:,} requests failed",
    ):
        assert said in row, said
    assert f"none of {requests:,} requests failed" in (ROOT / "docs/measurements.md").read_text()
    answered = f"answered after {quantile(unchecked['answered_s'], 0.5):.2f} s in the median"
    assert answered in (ROOT / "docs/how-to/deploy-and-roll-back.md").read_text()
