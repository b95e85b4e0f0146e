"""What a person decides upon: the reports as the pipeline stores them, as the pages word them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from functions.dashboard import presenting
from functions.dashboard.schemas import DecisionView
from functions.dashboard.views import decision_view, judgement_view, skew_view
from shared.domain.paired import Paired
from shared.domain.quality_gate import DeployWhen, GatePolicy, decide
from tests.browser.samples import SKEW
from tests.unit.stepping import advance, new_world, publish, roll_out, train

NBSP, NOTHING = presenting.NBSP, "\u2013"
HOLDOUT = "\n".join(
    json.dumps({"customer_id": f"C{number:03}", "product_ids": ["p3", "p70"]})
    for number in range(40)
)


def stored_skew(run: int) -> Any:
    """The report of a second version, as `check_health` stored it."""
    world = new_world()
    roll_out(world, 1)
    train(world, run)
    world.objects.put("training", f"run-{run}/evaluation/holdout.jsonl", HOLDOUT.encode())
    deployment_id = publish(world, run)
    advance(world, deployment_id, until="check")
    return world.state.deployment(deployment_id).skew


def test_report_of_the_health_check_is_shown_in_whole() -> None:
    stored = stored_skew(2)
    shown = skew_view(stored)
    assert shown is not None
    assert (shown.kind, shown.answered, shown.asked) == ("held-out customers", 40, 40)
    assert [recall.k for recall in shown.recalls] == [10, 50, 100]
    assert shown.live_version == "v1"
    assert json.loads(shown.model_dump_json())["recalls"][0]["held_out"] == 40
    titles = [title for title, _, _ in presenting.skew_rows(shown)]
    assert titles[:3] == ["Recall@10", "Recall@50", "Recall@100"]
    assert "Of ten products, the same as v1" in titles


def test_rows_have_the_interval_of_a_sample_and_what_stands_beside() -> None:
    shown = skew_view(SKEW)
    assert shown is not None
    rows = {title: (ours, beside) for title, ours, beside in presenting.skew_rows(shown)}
    assert rows["Recall@100"] == (
        f"40.7{NBSP}% (39.9 to 41.5)",
        f"40.9{NBSP}% in training",
    )
    assert rows["In the order of v1 (rank correlation)"] == ("+0.71", "2,000 customers")
    assert rows["Latency of one customer, p95"] == (f"6.3{NBSP}ms", f"5.9{NBSP}ms at v1")


@pytest.mark.parametrize(
    "changed",
    [
        {"spread": None, "latency": None},
        {"live": {"version": "", "why_not": "none is live", "agreement": None, "spread": None}},
        {"recall": {}},
        {"latency": dict.fromkeys(SKEW["latency"]) | {"customers": 0}},  # type: ignore[call-overload]
    ],
    ids=["nothing answered", "first version", "nothing held out", "nobody was timed"],
)
def test_report_with_gaps_is_shown_with_what_there_is(changed: dict[str, Any]) -> None:
    shown = skew_view({**SKEW, **changed})
    assert shown is not None
    assert all(
        isinstance(cell, str) and cell for row in presenting.skew_rows(shown) for cell in row
    )


def test_before_there_is_anything_to_say_nothing_is_said() -> None:
    assert skew_view({}) is None
    assert judgement_view({}) is None


def test_judgement_without_a_live_version_has_gaps_and_no_division_by_nothing() -> None:
    shown = judgement_view(
        {
            "verdict": "inconclusive",
            "why": "nothing of the candidate has been measured yet",
            "numbers": {"candidate_requests": 0, "candidate_errors": 0, "evidence": float("inf")},
            "blocks": 0,
        }
    )
    assert shown is not None
    assert presenting.judged_word(shown) == ("pending", "Not clear yet")
    assert presenting.judged_rows(shown) == [
        ("Requests", "0", NOTHING),
        ("Failed", NOTHING, NOTHING),
        ("p50, ms", NOTHING, NOTHING),
        ("p95, ms", NOTHING, NOTHING),
    ]
    assert json.loads(shown.model_dump_json())["numbers"]["evidence"] is None


def gate(when: DeployWhen, tested: Paired | str) -> DecisionView:
    policy = GatePolicy(when, "recall_at_100", 0.002, {"recall_at_10": 0.005, "loss": 1.0})
    ours, theirs = {"recall_at_100": 0.41, "recall_at_10": 0.13}, {"recall_at_100": 0.40}
    return decision_view(asdict(decide(policy, ours, theirs, tested)))


def test_gates_decision_has_its_primary_metric_first_and_the_guards() -> None:
    shown = gate(DeployWhen.IF_BETTER, Paired(1200, 0.01, 0.002, 0.018, 0.02, 0.95))
    assert [one.metric for one in shown.compared] == ["recall_at_100", "loss", "recall_at_10"]
    assert [one.may_fall_by for one in shown.compared] == [None, 1.0, 0.005]
    assert shown.compared[2].live is None
    assert presenting.tested_words(shown) == "", "the sentence above says it"


def test_test_is_told_where_the_decision_does_not_need_it() -> None:
    tested = Paired(1200, -0.01, -0.018, -0.002, 0.02, 0.95)
    words = presenting.tested_words(gate(DeployWhen.ALWAYS, tested))
    assert words.startswith(f"For the same 1,200 customers: {presenting.MINUS}0.0100 (95{NBSP}%")
    assert "no results" in presenting.tested_words(gate(DeployWhen.ALWAYS, "no results"))


def test_decision_without_a_comparison_has_no_table() -> None:
    shown = decision_view({"deploy": True, "why": "no version is active yet", "comparison": {}})
    assert (shown.compared, presenting.tested_words(shown)) == ([], "")
