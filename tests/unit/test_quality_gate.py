"""The quality gate: each answer, and the numbers in its sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.paired import Paired
from shared.domain.quality_gate import Decision, DeployWhen, GatePolicy, decide

METRIC = "recall_at_100"
GAIN = Paired(n=900, mean=0.01, low=0.002, high=0.018, p=0.014, confidence=0.95)
CHANCE = Paired(n=900, mean=0.01, low=-0.002, high=0.022, p=0.1, confidence=0.95)
LOSS = Paired(n=900, mean=-0.01, low=-0.018, high=-0.002, p=0.014, confidence=0.95)
BETTER = {METRIC: 0.5}, {METRIC: 0.4}


def policy(when: str = "if_better", **fields: Any) -> GatePolicy:
    return GatePolicy(DeployWhen(when), METRIC, **fields)


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
            "if_better", 0.1, {METRIC: 0.4}, {METRIC: 0.3}, True, "+0.1000", id="but for rounding"
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
    decision = decide(policy(when, minimum_margin=margin), candidate, live)
    assert decision.deploy is deploy
    assert why in decision.why


@pytest.mark.parametrize(
    ("candidate", "live", "deploy", "why"),
    [
        pytest.param({"hits": 0.31}, {"hits": 0.30}, True, "better", id="risen"),
        pytest.param({"hits": 0.28}, {"hits": 0.30}, True, "better", id="fallen by the bound"),
        pytest.param(
            {"hits": 0.27}, {"hits": 0.30}, False, "hits falls by more than 0.02", id="too far"
        ),
        pytest.param({}, {"hits": 0.3}, False, "does not report hits", id="no longer reported"),
        pytest.param({"hits": 0.1}, {}, True, "better", id="new, so nothing to fall below"),
    ],
)
def test_guarded_metric_may_not_fall_by_more_than_its_bound(
    candidate: dict[str, float], live: dict[str, float], deploy: bool, why: str
) -> None:
    guarded = policy(guard_metrics={"hits": 0.02})
    decision = decide(guarded, {METRIC: 0.5, **candidate}, {METRIC: 0.4, **live})
    assert (decision.deploy, why in decision.why) == (deploy, True)


def test_no_gain_buys_a_fallen_guard_back_and_each_that_fell_is_named() -> None:
    guarded = policy(guard_metrics={"a": 0.0, "b": 0.0, "c": 0.0})
    live = {METRIC: 0.1, "a": 0.5, "b": 0.5, "c": 0.5}
    decision = decide(guarded, {METRIC: 0.9, "a": 0.4, "b": 0.5, "c": 0.4}, live)
    assert not decision.deploy
    assert "a falls" in decision.why
    assert "c falls" in decision.why
    assert "b falls" not in decision.why


@pytest.mark.parametrize(
    ("significance", "by_customer", "deploy", "why"),
    [
        pytest.param(0.05, GAIN, True, "p 0.014", id="significant"),
        pytest.param(0.01, GAIN, False, "p must be below 0.01", id="not at this level"),
        pytest.param(0.014, GAIN, False, "may be chance", id="exactly at the level"),
        pytest.param(0.05, CHANCE, False, "-0.0020 to +0.0220, p 0.1", id="chance"),
        pytest.param(0.05, LOSS, False, "-0.0100", id="worse for the same customers"),
        pytest.param(0.05, "no such file", False, "cannot be tested: no such file", id="untested"),
        pytest.param(None, CHANCE, True, "p 0.1", id="only told"),
        pytest.param(None, "no such file", True, "better", id="not wanted"),
    ],
)
def test_gain_must_be_significant_where_the_policy_says_so(
    significance: float | None, by_customer: Paired | str, deploy: bool, why: str
) -> None:
    decision = decide(policy(significance=significance), *BETTER, by_customer)
    assert (decision.deploy, why in decision.why) == (deploy, True), decision.why


def test_always_deploys_what_is_worse_and_keeps_the_numbers() -> None:
    decision = decide(
        policy("always", significance=0.05, guard_metrics={"hits": 0}), {METRIC: 0.1}, {METRIC: 0.4}
    )
    assert decision.deploy
    assert decision.comparison["gain"] == pytest.approx(-0.3)


def test_decision_holds_all_the_numbers_that_it_was_made_of() -> None:
    decision = decide(
        policy(minimum_margin=0.05, guard_metrics={"hits": 0.02}, significance=0.05),
        {METRIC: 0.5, "hits": 0.3},
        {METRIC: 0.4, "hits": 0.3},
        GAIN,
    )
    assert decision.comparison == {
        "metric": METRIC,
        "candidate": 0.5,
        "live": 0.4,
        "gain": pytest.approx(0.1),
        "minimum_margin": 0.05,
        "guards": {"hits": {"candidate": 0.3, "live": 0.3, "gain": 0.0, "may_fall_by": 0.02}},
        "significance": 0.05,
        "by_customer": {
            "n": 900,
            "mean": 0.01,
            "low": 0.002,
            "high": 0.018,
            "p": 0.014,
            "confidence": 0.95,
        },
    }


finite = st.floats(allow_nan=False, allow_infinity=False)
metrics = st.dictionaries(st.sampled_from([METRIC, "hits", "mrr"]), finite)


@given(
    st.sampled_from(DeployWhen),
    metrics,
    st.none() | metrics,
    st.dictionaries(st.sampled_from(["hits", "mrr"]), st.floats(0, 1e308)),
    st.none() | st.floats(0.001, 0.999),
    st.sampled_from(["none", GAIN, CHANCE, LOSS]),
)
def test_whatever_was_measured_the_decision_can_be_stored_and_a_better_run_is_really_better(
    when: DeployWhen,
    candidate: dict[str, float],
    live: dict[str, float] | None,
    guards: dict[str, float],
    significance: float | None,
    by_customer: Paired | str,
) -> None:
    gate = GatePolicy(when, METRIC, 0.0, guards, significance)
    decision: Decision = decide(gate, candidate, live, by_customer)
    assert json.loads(json.dumps(decision.comparison, allow_nan=False)) == decision.comparison
    if decision.deploy and when is DeployWhen.IF_BETTER and live is not None:
        assert candidate[METRIC] > live[METRIC]
        for name, bound in guards.items():
            if name in live:
                assert live[name] - candidate[name] <= bound + 1e-9
        if significance is not None:
            assert isinstance(by_customer, Paired)
            assert by_customer.mean > 0
            assert by_customer.p < significance
