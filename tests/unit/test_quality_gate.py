"""The quality gate: each answer, and the numbers in its sentence."""

from __future__ import annotations

import pytest

from shared.domain.quality_gate import DeployWhen, decide

METRIC = "recall_at_100"


@pytest.mark.parametrize(
    ("when", "margin", "candidate", "live", "deploy", "why"),
    [
        pytest.param("off", 0, {METRIC: 0.9}, {METRIC: 0.1}, False, "off", id="off"),
        pytest.param("off", 0, {METRIC: 0.9}, None, False, "off", id="off, nothing live"),
        pytest.param("always", 0, {}, {METRIC: 0.9}, True, "asked for", id="always"),
        pytest.param("if_better", 0, {}, None, True, "no version", id="nothing live"),
        pytest.param("if_better", 0, {METRIC: 0.5}, {METRIC: 0.4}, True, "+0.1000", id="better"),
        pytest.param("if_better", 0, {METRIC: 0.4}, {METRIC: 0.4}, False, "+0.0000", id="equal"),
        pytest.param("if_better", 0, {METRIC: 0.3}, {METRIC: 0.4}, False, "-0.1000", id="worse"),
        pytest.param(
            "if_better", 0.25, {METRIC: 0.75}, {METRIC: 0.5}, True, "+0.2500", id="by the margin"
        ),
        pytest.param(
            "if_better", 0.26, {METRIC: 0.75}, {METRIC: 0.5}, False, "by 0.26", id="too little"
        ),
        pytest.param("if_better", 0, {}, {METRIC: 0.4}, False, "run does not", id="unmeasured"),
        pytest.param("if_better", 0, {METRIC: 1}, {}, False, "live version", id="live unmeasured"),
    ],
)
def test_gate_decides_and_says_why(
    when: str,
    margin: float,
    candidate: dict[str, float],
    live: dict[str, float] | None,
    deploy: bool,
    why: str,
) -> None:
    decision = decide(DeployWhen(when), METRIC, margin, candidate, live)
    assert decision.deploy is deploy
    assert why in decision.why
