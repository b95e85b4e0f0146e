"""The candidate is asked for the customers that training held out, before it has any traffic."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from functions.evaluation import BYTES_AT_MOST
from functions.on_training_completed import receive
from shared.domain.deployment import StepName, StepState
from shared.errors import HealthCheckFailed, Superseded, Unavailable
from shared.messages import Policy
from tests.fakes import Behaviour, World
from tests.unit.stepping import MODEL, SERVICE, advance, message, new_world, step, train

CATALOGUE = 400
CUSTOMERS = [f"c{number}" for number in range(60)]
RECALLS = {"recall_at_10": 0.25, "recall_at_50": 0.5, "recall_at_100": 0.5}
"""What `personal` answers: one of four in the first 10, another one in the first 50."""


def personal(customer: str, top_k: int) -> list[str]:
    """Each customer's own products, best first."""
    start = int(customer[1:]) if customer[1:].isdigit() else 0
    return [f"p{(start + rank) % CATALOGUE}" for rank in range(top_k)]


def taken_by(customer: str) -> list[str]:
    """The first, the 20th, and two that are never answered."""
    answer = personal(customer, 100)
    return [answer[0], answer[19], "x1", "x2"]


def lines(entries: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(entry)}\n" for entry in entries).encode()


def holdout(customers: Iterable[str] = CUSTOMERS) -> bytes:
    return lines({"customer_id": one, "product_ids": taken_by(one)} for one in customers)


def behaviour(**changes: Any) -> Behaviour:
    return Behaviour(**{"ranks": personal, "products": CATALOGUE, **changes})


def published(
    world: World,
    run: int,
    file: bytes | None = None,
    metrics: Mapping[str, float] = RECALLS,
    **changes: Any,
) -> str:
    """A run whose candidate is up and waits for its health check; return its deployment's id."""
    world.predictions.behaviours[run] = behaviour(**changes)
    train(world, run)
    if file is not None:
        world.objects.put("training", f"run-{run}/evaluation/holdout.jsonl", file)
    receive(message(run, {"when": "always"}, metrics=dict(metrics)), f"m{run}", world.ports())
    advance(world, f"{MODEL}-{run}-auto", "create")
    return f"{MODEL}-{run}-auto"


def world_with(check: str = "gate", **skew: Any) -> World:
    return new_world(policy=Policy(skew={"check": check, **skew}))


def live_version(world: World, run: int = 1, **changes: Any) -> None:
    """Bring a version live."""
    name = published(world, run, holdout(), **changes)
    for one in ("check", "shift", "finish"):
        step(world, one, name, **({"percent": 100} if one == "shift" else {}))


def checked(world: World, name: str) -> dict[str, Any]:
    """Check it and return the report."""
    step(world, "check", name)
    return dict(world.state.deployment(name).skew)


def refused(world: World, name: str) -> str:
    """Check it, which must fail; return the reason, which the record holds as well."""
    with pytest.raises(HealthCheckFailed) as refusal:
        step(world, "check", name)
    found = world.state.deployment(name)
    record = found.steps[StepName.HEALTH_CHECKS.value]
    assert not found.healthy
    assert (record.state, record.error) == (StepState.FAILED, str(refusal.value))
    assert list(world.keys.active.values())[-1] is False
    return str(refusal.value)


def whys(report: Mapping[str, Any]) -> dict[str, str]:
    return {finding["what"]: finding["why"] for finding in report["findings"]}


def test_recall_through_the_endpoint_is_that_of_training_and_passes_the_gate() -> None:
    world = world_with()
    report = checked(world, published(world, 1, holdout()))
    assert report["findings"] == report["faults"] == []
    assert report["customers"] == {
        "kind": "held-out customers",
        "given": 60,
        "asked": 60,
        "answered": 60,
        "unknown_share": 0.0,
    }
    for name, recall in report["recall"].items():
        assert recall["served"] == pytest.approx(RECALLS[name])
        assert (recall["asked"], recall["held_out"]) == (60, 60)
    assert report["spread"]["products"] == CATALOGUE
    assert report["spread"]["coverage"] == pytest.approx(69 / CATALOGUE)
    assert report["live"]["version"] == ""
    assert "no version is live yet" in report["notes"][0]
    assert json.dumps(report, allow_nan=False)
    detail = world.state.deployment("movies-1-auto").steps[StepName.HEALTH_CHECKS.value].detail
    assert "Recall@100 0.500 (0.500 in training)" in detail


WRONG = {"recall_at_10": 0.25, "recall_at_50": 0.5, "recall_at_100": 0.8}


def test_artifacts_of_another_run_are_refused_by_their_recall_under_the_gate() -> None:
    world = world_with()
    why = refused(world, published(world, 1, holdout(), WRONG))
    assert "Recall@100 through the endpoint is 0.5000" in why
    assert "training reported 0.8000" in why
    assert "skew.check is gate" in why
    assert "Recall@10 " not in why
    assert list(whys(world.state.deployment("movies-1-auto").skew)) == ["recall_at_100"]


def test_wrong_recall_is_only_recorded_where_the_policy_says_report() -> None:
    world = world_with("report")
    report = checked(world, published(world, 1, holdout(), WRONG))
    assert world.state.deployment("movies-1-auto").healthy
    assert list(whys(report)) == ["recall_at_100"]


def test_check_that_is_off_asks_nobody_and_records_nothing() -> None:
    world = world_with("off")
    asked: list[Sequence[str]] = []
    name = published(world, 1, holdout(), WRONG, answers=lambda who: asked.append(who) or 200)
    assert checked(world, name) == {}
    assert asked == [["15", "73", "turnout-unknown-customer"]]


@pytest.mark.parametrize(
    ("file", "why"),
    [
        pytest.param(None, "holdout.jsonl is not there", id="no file"),
        pytest.param(b"", "is empty", id="an empty file"),
        pytest.param(b'{"customer_id": "c1", "product_ids": []}\n', "is empty", id="nobody took"),
        pytest.param(holdout() + b"nonsense\n", "line 61 of .* is not JSON", id="no JSON"),
        pytest.param(holdout() + b"[1]\n", "line 61 of .* is no JSON object", id="no object"),
        pytest.param(holdout() * 2, "line 61 of .*'c0' comes twice", id="customer twice"),
        pytest.param(b'{"customer_id": 7, "product_ids": ["a"]}', "customer_id", id="id no text"),
        pytest.param(b'{"customer_id": "c1", "product_ids": "a"}', "product_ids", id="no list"),
        pytest.param(b'{"customer_id": "c1", "product_ids": [1]}', "product_ids", id="numbers"),
        pytest.param(b'{"customer_id": "\\ud800"}', "customer_id", id="half a character"),
        pytest.param(b"[" * 100_000, "not JSON", id="too deep"),
    ],
)
def test_gate_without_held_out_customers_is_never_passed_silently(
    file: bytes | None, why: str
) -> None:
    world = world_with()
    said = refused(world, published(world, 1, file))
    assert "no held-out customers were given" in said
    assert "let training write evaluation/holdout.jsonl" in said
    assert pytest.raises(AssertionError, match=why).matches(AssertionError(said))


def test_too_large_a_file_is_not_read() -> None:
    class Huge:
        """Objects in which every holdout file is one byte too large, and must not be read."""

        def __init__(self, objects: Any) -> None:
            self._objects = objects

        def __getattr__(self, name: str) -> Any:
            return getattr(self._objects, name)

        def list(self, bucket: str, prefix: str) -> list[Any]:
            found = self._objects.list(bucket, prefix)
            return [
                replace(one, size=BYTES_AT_MOST + 1) if "holdout" in one.name else one
                for one in found
            ]

        def read(self, bucket: str, name: str) -> bytes | None:
            assert "holdout" not in name
            return self._objects.read(bucket, name)  # type: ignore[no-any-return]

    world = world_with()
    name = published(world, 1, holdout())
    world.objects = Huge(world.objects)  # type: ignore[assignment]
    assert "more than 64" in refused(world, name)


def test_without_held_out_customers_the_golden_ones_are_asked_and_the_report_says_so() -> None:
    world = world_with("report")
    report = checked(world, published(world, 1))
    assert report["customers"]["kind"] == "golden customers"
    assert report["customers"]["answered"] == 2
    assert report["recall"] == {}
    assert report["spread"] is not None
    assert "no held-out customers were given" in whys(report)["holdout"]


def test_gate_is_not_passed_where_training_reported_no_recall_to_compare_with() -> None:
    world = world_with()
    assert "training reported none of recall_at_10" in refused(
        world, published(world, 1, holdout(), {"auc": 0.9})
    )


def test_more_customers_than_the_policy_asks_for_are_sampled_and_the_error_is_stated() -> None:
    world = world_with(customers=40)
    report = checked(world, published(world, 1, holdout()))
    assert (report["customers"]["given"], report["customers"]["asked"]) == (60, 40)
    assert report["recall"]["recall_at_10"]["held_out"] == 60


def empty_for(customers: Iterable[str]) -> Callable[[str, int], list[str]]:
    nothing = set(customers)
    return lambda customer, top_k: [] if customer in nothing else personal(customer, top_k)


def failing_for(customers: Iterable[str], status: int = 500) -> Callable[[Sequence[str]], int]:
    broken = set(customers)
    return lambda asked: status if broken & set(asked) else 200


TENTH = CUSTOMERS[::10]


@pytest.mark.parametrize("check", ["report", "gate"])
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        pytest.param(
            {"ranks": empty_for(TENTH)}, "got 0 recommendations, expected 100", id="empty"
        ),
        pytest.param({"answers": failing_for(TENTH)}, "answers 500, the model failed", id="500"),
        pytest.param({"answers": failing_for(TENTH, 400)}, "answers 400", id="400"),
        pytest.param(
            {
                "ranks": lambda customer, top_k: (
                    ["p1"] * top_k if customer in TENTH else personal(customer, top_k)
                )
            },
            "got the same product twice",
            id="one product over and over",
        ),
        pytest.param(
            {
                "results": lambda results: [
                    {**one, "recommendations": None} if one["customer_id"] in TENTH else one
                    for one in results
                ]
            },
            "got no recommendations",
            id="no list",
        ),
    ],
)
def test_customers_without_a_right_answer_fail_every_check_with_their_number_and_one_of_them(
    check: str, fault: dict[str, Any], says: str
) -> None:
    world = world_with(check)
    why = refused(world, published(world, 1, holdout(), **fault))
    assert "6 of 60 held-out customers got no right answer" in why
    assert says in why
    assert any(f"'{customer}'" in why for customer in TENTH)


def test_region_that_always_fails_is_found_though_not_all_of_its_customers_are_looked_for() -> None:
    world = world_with("report", customers=10_000)
    customers = [f"c{number}" for number in range(4000)]
    asked: list[int] = []

    def answers(who: Sequence[str]) -> int:
        asked.append(len(who))
        return 500 if any(one.endswith("7") for one in who) else 200

    why = refused(world, published(world, 1, holdout(customers), answers=answers))
    assert why.startswith("at least ")
    assert "got no right answer, such as customer 'c" in why
    assert len(asked) < 1500


def one_list(_: str, top_k: int) -> list[str]:
    return [f"p{rank}" for rank in range(top_k)]


def test_one_list_for_everybody_is_refused_and_what_to_do_is_said() -> None:
    world = world_with("report")
    why = refused(world, published(world, 1, holdout(), ranks=one_list))
    assert "all 60 known held-out customers get the same products" in why
    assert "skew.check to off" in why


def test_one_list_for_everybody_is_no_fault_where_the_live_version_does_the_same() -> None:
    world = new_world(policy=Policy(skew={"check": "off"}))
    live_version(world, ranks=one_list)
    world.state.declare(
        world.state.declaration(MODEL).model_copy(  # type: ignore[union-attr]
            update={"policy": Policy(skew={"check": "report"})}
        )
    )
    report = checked(world, published(world, 2, holdout(), ranks=one_list))
    assert any("as from v1: a popularity model" in note for note in report["notes"])


def test_one_list_for_everybody_is_a_fault_where_live_has_one_for_each() -> None:
    world = world_with("report")
    live_version(world)
    why = refused(world, published(world, 2, holdout(), ranks=one_list))
    assert "the live version does not answer so (v1)" in why


def test_unknown_customers_may_get_one_list_and_their_share_is_told() -> None:
    world = world_with("report")
    report = checked(
        world,
        published(
            world,
            1,
            holdout(),
            ranks=one_list,
            results=lambda results: [{**one, "known": False} for one in results],
        ),
    )
    assert report["customers"]["unknown_share"] == 1
    assert "60 of 60 held-out customers are unknown to the model" in report["notes"]


def test_one_product_for_everybody_is_too_concentrated() -> None:
    world = world_with(maximum_concentration=0.9)
    why = refused(
        world,
        published(
            world,
            1,
            holdout(),
            {"recall_at_10": 0.25},
            ranks=lambda customer, top_k: ["star", *personal(customer, top_k - 1)],
        ),
    )
    assert "100.0% of the customers get product 'star'" in why


def test_live_version_is_asked_the_same_at_its_own_tag_and_compared() -> None:
    world = world_with()
    live_version(world)
    name = published(
        world,
        2,
        holdout(),
        {"recall_at_10": 0.0},
        ranks=lambda customer, top_k: personal(customer, top_k + 5)[5:],
    )
    live = checked(world, name)["live"]
    assert (live["version"], live["why_not"]) == ("v1", "")
    assert live["agreement"]["customers"] == 60
    assert live["agreement"]["overlap"] == pytest.approx(0.5)
    assert live["agreement"]["rank_correlation"] == pytest.approx(1.0)
    assert live["spread"]["coverage"] == pytest.approx(69 / CATALOGUE)


def test_overlap_that_the_policy_wants_is_refused_where_live_cannot_be_asked() -> None:
    world = world_with(minimum_overlap=0.5)
    live_version(world)
    name = published(world, 2, holdout())
    del world.cloud_run.services[SERVICE].tags["ver-1"]
    why = refused(world, name)
    assert "the overlap is not known: v1 has no tag 'ver-1' to ask it at" in why


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        pytest.param({"status": 500}, "v1 answered 500 after 0 customers", id="fails"),
        pytest.param({"status": 429}, "v1 answered 429 after 0 customers", id="busy"),
        pytest.param({"health_status": 503}, "answers 503 at the tag of v1", id="not healthy"),
        pytest.param({"health": {"model_version": "v7"}}, "v7 answers 200", id="another version"),
    ],
)
def test_live_version_that_is_not_well_is_left_in_peace_and_not_compared(
    fault: dict[str, Any], why: str
) -> None:
    world = world_with()
    live_version(world)
    asked: list[Sequence[str]] = []
    world.predictions.behaviours[1] = behaviour(
        answers=lambda who: asked.append(who) or 200, **fault
    )
    report = checked(world, published(world, 2, holdout()))
    assert why in report["live"]["why_not"]
    assert report["live"]["agreement"] is None
    assert asked == []
    assert not any(wait_s > 1 for wait_s in world.clock.slept_s)


def test_busy_candidate_is_asked_again_ever_later() -> None:
    world = world_with()
    statuses = iter([200, 429, 503, 429])
    report = checked(world, published(world, 1, holdout(), answers=lambda _: next(statuses, 200)))
    assert report["customers"]["answered"] == 60
    waits_s = [wait_s for wait_s in world.clock.slept_s if wait_s]
    assert waits_s[-3:] == [0.5, 1, 2]


def test_candidate_that_stays_busy_is_a_passing_fault() -> None:
    world = world_with()
    name = published(world, 1, holdout(), answers=lambda who: 503 if "c1" in who else 200)
    with pytest.raises(Unavailable, match="503"):
        step(world, "check", name)
    record = world.state.deployment(name).steps[StepName.HEALTH_CHECKS.value]
    assert record.state is StepState.RUNNING
    assert sum(world.clock.slept_s) < 60


def slow(world: World, seconds: float) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    def results(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        world.clock.sleep(seconds)
        return found

    return results


def test_progress_is_written_at_most_once_a_second() -> None:
    world = world_with()
    name = published(
        world,
        1,
        holdout(f"c{number}" for number in range(2000)),
        results=slow(world, 0.4),
    )
    details: dict[str, Any] = {}

    def committed(_: object, writes: Mapping[Any, Any], __: object) -> None:
        record = writes.get(("deployments", name))
        if record is not None:
            detail = record.steps[StepName.HEALTH_CHECKS.value].detail
            details.setdefault(detail, world.clock.now())

    world.state.committed = committed
    step(world, "check", name)
    progress = {detail: at for detail, at in details.items() if detail.endswith("asked")}
    assert next(iter(progress)) == "600 of 2,000 held-out customers asked"
    assert len(progress) >= 3
    assert all((b - a).total_seconds() >= 1 for a, b in pairwise(progress.values()))


def test_slow_model_is_judged_on_whom_it_answered_in_time() -> None:
    world = world_with(customers=10_000)
    name = published(
        world,
        1,
        holdout(f"c{number}" for number in range(10_000)),
        results=slow(world, 20),
    )
    begun = world.clock.now()
    report = checked(world, name)
    assert (world.clock.now() - begun).total_seconds() < 600
    assert 2000 <= report["customers"]["asked"] <= 5000
    assert any("of 10,000 held-out customers were asked in the time" in n for n in report["notes"])
    recall = report["recall"]["recall_at_10"]
    assert (recall["asked"], recall["held_out"]) == (report["customers"]["asked"], 10_000)


def test_latencies_are_measured_of_both_in_turn() -> None:
    world = world_with()
    live_version(world)
    name = published(world, 2, holdout(), results=slow(world, 0.03))
    world.predictions.behaviours[1] = behaviour(results=slow(world, 0.01))
    latency = checked(world, name)["latency"]
    assert latency == {
        "customers": 50,
        "p50_ms": pytest.approx(30),
        "p95_ms": pytest.approx(30),
        "live_p50_ms": pytest.approx(10),
        "live_p95_ms": pytest.approx(10),
    }


def test_check_stops_as_soon_as_somebody_took_over() -> None:
    world = world_with()
    asked: list[Sequence[str]] = []

    def results(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        world.clock.sleep(2)
        asked.append([one["customer_id"] for one in found])
        if len(asked) == 3:
            world.state.change(
                MODEL, lambda book: setattr(book, "model", replace(book.model, token=99))
            )
        return found

    name = published(world, 1, holdout(f"c{number}" for number in range(2000)), results=results)
    with pytest.raises(Superseded):
        step(world, "check", name)
    assert len(asked) == 3
    assert not world.state.deployment(name).healthy


def test_repeated_check_measures_anew() -> None:
    world = world_with("report")
    name = published(world, 1, holdout(), WRONG)
    assert whys(checked(world, name))
    world.predictions.behaviours[1] = behaviour(products=CATALOGUE + 100)
    assert checked(world, name)["spread"]["products"] == CATALOGUE + 100


def test_model_with_few_products_is_asked_for_all_of_them() -> None:
    world = world_with("report")
    report = checked(
        world, published(world, 1, holdout(), products=7, ranks=lambda c, k: personal(c, k))
    )
    assert report["faults"] == []
    assert report["customers"]["answered"] == 60
