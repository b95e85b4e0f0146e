"""Alerts, objectives and the dashboard speak of what is really logged and measured."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from google.cloud import monitoring_v3
from google.protobuf import json_format

from benchmarks.costs import ALERTED_METRICS, UPTIME_EVERY_S, UPTIME_PLACES
from serving.app import create_app
from serving.keys import ApiKeys
from serving.model_slot import EMPTY, STARTING, ModelSlot, NoModel
from serving.service import Service
from serving.usage import Usage
from tests.recommenders import Alphabet, ready
from tests.terraform.checking import Plan, Workspace
from tests.terraform.log_filter import extract, matches
from tests.terraform.monitoring import (
    ANYTHING,
    known_metrics,
    labels_of,
    logged,
    messages_in,
    metric_of,
    promql_name,
    selectors,
)
from tests.terraform.stories import STORIES, Entry, tell
from tests.terraform.test_runbook import titles
from tests.unit.test_serving_app import SETTINGS, NoUsage, OneKey

# Which story makes which alert speak; what no story tells is looked for in the code's constants.
SPEAKS = {
    "Deployment failed": {"pipeline_fails", "workflow_loses_a_function", "execution_dies"},
    "Candidate was stopped": {"candidate_is_unhealthy", "judge_gives_up", "workflows_are_down"},
    "Rollout waits for approval": {"stage_holds"},
    "Approval is about to run out": {"nobody_approves"},
    "Rolled back": {"person_rolls_back"},
    "Traffic was changed by hand": {"person_moves_traffic"},
    "Reconcile repaired something": {"nobody_claims"},
    "Reconcile cannot repair": {"cloud_run_is_gone", "one_model_of_all_cannot_be_repaired"},
    "State is older than Cloud Run": {"documents_are_older"},
    "Workflow could not be started": {"workflows_are_down"},
    "Events are not announced": {"pubsub_is_down"},
    "Event was refused": {"schema_refuses"},
    "API keys cannot be looked up": {"key_store_is_away"},
}
ONCE_OF_A_DEPLOYMENT = {
    "Deployment failed",
    "Candidate was stopped",
    "Rollout waits for approval",
    "Rolled back",
    "Traffic was changed by hand",
    "Reconcile repaired something",
}
PLACES = 6
"""From so many places Google asks where a check names none."""
LABELS_OF_A_PLATFORM = {"Scheduled call failed", "No instance was free"}
"""Their lines are Google's own."""


@pytest.fixture(scope="module")
def plan(workspace: Workspace) -> Plan:
    """What the run `everything` of terraform/tests/monitoring.tftest.hcl makes."""
    tested = workspace.test("-filter=tests/monitoring.tftest.hcl")
    assert tested.passed, tested.output
    return tested.plans["everything"]


@pytest.fixture(scope="module")
def told() -> dict[str, list[Entry]]:
    """The log entries of each story."""
    return {name: tell(name) for name in STORIES}


def alerts(plan: Plan, kind: str) -> dict[str, Mapping[str, Any]]:
    """Return one kind of conditions by the alert's title."""
    found = {}
    for policy in plan.all("google_monitoring_alert_policy").values():
        title = policy["display_name"].removeprefix("Turnout: ")
        for condition in policy["conditions"]:
            for inner in condition[kind] or ():
                found[title] = inner
    return found


def policies(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return the alerts' policies by their titles."""
    found = plan.all("google_monitoring_alert_policy").values()
    return {one["display_name"].removeprefix("Turnout: "): one for one in found}


def log_metrics(plan: Plan) -> dict[str, dict[str, Any]]:
    return plan.all("google_logging_metric")


def test_each_log_alert_speaks_in_its_stories_and_in_no_other(
    plan: Plan, told: Mapping[str, list[Entry]]
) -> None:
    speaks = {
        title: {
            name
            for name, entries in told.items()
            if any(matches(one["filter"], e) for e in entries)
        }
        for title, one in alerts(plan, "condition_matched_log").items()
    }
    assert {title: stories for title, stories in speaks.items() if stories} == SPEAKS
    assert all("good_rollout" not in stories for stories in speaks.values())


def test_repeated_abort_is_one_failure(plan: Plan, told: Mapping[str, list[Entry]]) -> None:
    query = alerts(plan, "condition_matched_log")["Deployment failed"]["filter"]
    assert [matches(query, entry) for entry in told["pipeline_fails"]].count(True) == 1


def test_two_deployments_that_end_close_together_are_both_told(plan: Plan) -> None:
    """One policy speaks for all models, and its limit is the policy's."""
    limits = {
        title: policy["alert_strategy"][0]["notification_rate_limit"][0]["period"]
        for title, policy in policies(plan).items()
        if policy["alert_strategy"][0]["notification_rate_limit"]
    }
    assert {limits[title] for title in ONCE_OF_A_DEPLOYMENT} == {"300s"}
    # What is written every three minutes as long as it lasts is not sent as often.
    assert limits["Reconcile cannot repair"] == limits["Approval is about to run out"] == "1800s"


def test_model_that_cannot_be_repaired_raises_one_alert(
    plan: Plan, told: Mapping[str, list[Entry]]
) -> None:
    logs = alerts(plan, "condition_matched_log")
    lines = [*told["one_model_of_all_cannot_be_repaired"], scheduler_says("UNREACHABLE_5xx", 503)]
    speaks = {t for t, one in logs.items() for line in lines if matches(one["filter"], line)}
    assert speaks == {"Reconcile cannot repair"}
    assert heard(plan, "Reconcile does not run", lines)
    failing = alerts(plan, "condition_threshold")["Function keeps failing"]["filter"]
    services = re.search(r'service_name=monitoring\.regex\.full_match\("([^"]+)"\)', failing)
    assert services
    assert re.fullmatch(services[1], "check-health")
    assert not re.fullmatch(services[1], "reconcile")


@pytest.mark.parametrize(
    ("why", "status"),
    [
        ("URL_ERROR-ERROR_AUTHENTICATION", 401),
        ("URL_ERROR-ERROR_OTHER", 403),
        ("URL_TIMEOUT-TIMEOUT_WEB", 0),
    ],
)
def test_scheduled_call_that_does_not_arrive_is_told(plan: Plan, why: str, status: int) -> None:
    query = alerts(plan, "condition_matched_log")["Scheduled call failed"]["filter"]
    assert matches(query, scheduler_says(why, status))


def scheduler_says(why: str, status: int) -> Entry:
    """Return Cloud Scheduler's own entry of a call that failed."""
    return {
        "severity": "ERROR",
        "resource": {"type": "cloud_scheduler_job", "labels": {"job_id": "reconcile"}},
        "jsonPayload": {"debugInfo": f"{why}. Original HTTP response code number = {status}"},
    }


@pytest.mark.parametrize(
    ("title", "story", "runs"),
    [
        ("Reconcile does not run", "schedule_runs", True),
        ("Reconcile does not run", "one_model_of_all_cannot_be_repaired", True),
        ("Reconcile does not run", "reconcile_dies", False),
        ("Reconcile does not run", "step_is_refused", False),
        ("Metrics are not collected", "schedule_runs", True),
        ("Metrics are not collected", "one_model_of_all_cannot_be_repaired", False),
    ],
)
def test_what_has_to_run_is_heard_by_its_own_lines(
    plan: Plan, told: Mapping[str, list[Entry]], title: str, story: str, runs: bool
) -> None:
    assert heard(plan, title, told[story]) is runs


def heard(plan: Plan, title: str, lines: list[Entry]) -> bool:
    """Tell whether the metric whose absence is looked for counts one of the lines."""
    query = alerts(plan, "condition_prometheus_query_language")[title]["query"]
    # Metric absence of the older kind says nothing of what never ran.
    assert query.startswith("absent_over_time(")
    [(name, matchers)] = selectors(query)
    [metric] = [
        one
        for one in log_metrics(plan).values()
        if promql_name(f"logging.googleapis.com/user/{one['name']}") == name
    ]
    wanted = {label: text for label, text in matchers.items() if label != "monitored_resource"}
    return any(
        all(extract(metric["label_extractors"][label], line) == wanted[label] for label in wanted)
        for line in lines
        if matches(metric["filter"], line)
    )


def uptime_checks(plan: Plan) -> dict[str, dict[str, Any]]:
    found = plan.all("google_monitoring_uptime_check_config")
    return {one["display_name"].removeprefix("Turnout: "): one for one in found.values()}


@pytest.mark.parametrize(
    ("nothing", "well"),
    [
        pytest.param(EMPTY, True, id="the empty v0"),
        pytest.param(STARTING, False, id="starting for ever"),
        pytest.param(NoModel("unhealthy", "the model's process ended"), False, id="broken"),
        pytest.param(None, True, id="healthy"),
    ],
)
def test_health_of_the_empty_version_is_no_alarm(
    plan: Plan, nothing: NoModel | None, well: bool
) -> None:
    slot = ModelSlot(nothing or STARTING)
    if nothing is None:
        slot.set_model(ready(Alphabet()))
    service = Service("v3", slot, ApiKeys("movies", OneKey()), Usage(NoUsage()))
    answer = create_app(SETTINGS, slot, service, lambda: False).test_client().get("/health")
    check = uptime_checks(plan)["model-movies"]
    [http], [matcher] = check["http_check"], check["content_matchers"]
    accepted = {one["status_value"] for one in http["accepted_response_status_codes"]}
    assert matcher["matcher"] == "MATCHES_REGEX"
    passes = answer.status_code in accepted and re.fullmatch(matcher["content"], answer.text)
    assert bool(passes) is well
    # What Cloud Run says for a container that does not start.
    assert not re.fullmatch(matcher["content"], "Service Unavailable")


def test_uptime_checks_alone_are_no_applications_that_ask(plan: Plan) -> None:
    alert = alerts(plan, "condition_threshold")["Model has no version"]
    [period] = {one["period"] for one in uptime_checks(plan).values()}
    rounds = seconds(alert["aggregations"][0]["alignment_period"]) // seconds(period) + 1
    assert alert["threshold_value"] > PLACES * rounds


def test_costs_count_what_alerts_look_at(plan: Plan) -> None:
    queries = alerts(plan, "condition_prometheus_query_language").values()
    named = len(alerts(plan, "condition_threshold"))
    named += sum(len(selectors(one["query"])) for one in queries)
    # This run has a domain's certificate, and models with two different maxima of instances.
    assert named == ALERTED_METRICS + 2
    [period] = {one["period"] for one in uptime_checks(plan).values()}
    assert (seconds(period), PLACES) == (UPTIME_EVERY_S, UPTIME_PLACES)


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_every_message_that_is_looked_for_is_one_that_the_code_logs(plan: Plan) -> None:
    known = logged()
    filters = [one["filter"] for one in alerts(plan, "condition_matched_log").values()]
    filters += [one["filter"] for one in log_metrics(plan).values()]
    wanted = {message for query in filters for message in messages_in(query)}
    assert len(wanted) >= 20
    assert wanted <= set(known)


def test_labels_of_log_alerts_are_fields_of_the_lines(
    plan: Plan, told: Mapping[str, list[Entry]]
) -> None:
    entries = [entry for story in told.values() for entry in story]
    for title, one in alerts(plan, "condition_matched_log").items():
        if title in LABELS_OF_A_PLATFORM:
            continue
        taken = [entry for entry in entries if matches(one["filter"], entry)]
        for label, extractor in (one["label_extractors"] or {}).items():
            found = any(extract(extractor, entry) for entry in taken)
            assert found or _field_is_logged(extractor, one["filter"]), (title, label)


def test_labels_and_values_of_log_metrics_are_fields_of_the_lines(
    plan: Plan, told: Mapping[str, list[Entry]]
) -> None:
    entries = [entry for story in told.values() for entry in story]
    for name, metric in log_metrics(plan).items():
        taken = [entry for entry in entries if matches(metric["filter"], entry)]
        extractors = list(metric["label_extractors"].values())
        if metric["value_extractor"]:
            extractors.append(metric["value_extractor"])
            assert all(float(extract(extractors[-1], entry) or "") >= 0 for entry in taken)
        for extractor in extractors:
            found = any(extract(extractor, entry) is not None for entry in taken)
            assert found or _field_is_logged(extractor, metric["filter"]), (name, extractor)
        declared = {label["key"] for label in metric["metric_descriptor"][0]["labels"]}
        assert declared == set(metric["label_extractors"])


def _field_is_logged(extractor: str, query: str) -> bool:
    """Tell whether the code gives the field to a message that the filter looks for."""
    known = logged()
    if "resource.labels" in extractor or "jsonPayload.message" in extractor:
        return True
    name = extractor.split("jsonPayload.")[1].split(")")[0].split(",")[0]
    return any({name, ANYTHING} & known[message] for message in messages_in(query))


def test_verdict_is_the_first_word_of_what_the_judge_said(plan: Plan) -> None:
    [metric] = [m for m in log_metrics(plan).values() if m["name"] == "turnout_canary_verdicts"]
    line = {"jsonPayload": {"why": "fail at 10 %: 3.44% of 872 requests failed"}}
    assert extract(metric["label_extractors"]["verdict"], line) == "fail"


def test_rollouts_objective_counts_what_ended_and_blames_the_pipeline_for_its_own(
    plan: Plan, told: Mapping[str, list[Entry]]
) -> None:
    [metric] = [m for m in log_metrics(plan).values() if m["name"] == "turnout_rollouts"]
    ended = {
        name: [
            (extract(metric["label_extractors"]["outcome"], entry), entry["jsonPayload"]["fault"])
            for entry in entries
            if matches(metric["filter"], entry)
        ]
        for name, entries in told.items()
    }
    assert ended["good_rollout"] == [("active", "none")] * 2
    assert ended["pipeline_fails"] == [("failed", "pipeline")]
    assert ended["candidate_is_unhealthy"] == [("failed", "candidate")]
    assert ended["execution_dies"] == [("failed", "pipeline")]


def test_filters_name_metrics_resources_and_labels_that_exist(plan: Plan) -> None:
    known = known_metrics(log_metrics(plan))
    checked = list(alerts(plan, "condition_threshold").values())
    filters = [
        (
            one["filter"],
            [name for part in one["aggregations"] for name in part["group_by_fields"] or ()],
        )
        for one in checked
    ]
    filters += [(text, []) for text in _objectives(plan)]
    assert len(filters) > 15
    for text, grouped in filters:
        metric, resource = metric_of(text)
        assert known[metric][0] == resource, text
        assert labels_of(text, grouped) <= known[metric][1], text


def _objectives(plan: Plan) -> list[str]:
    texts = []
    for objective in plan.all("google_monitoring_slo").values():
        sli = objective["request_based_sli"][0]
        for ratio in sli["good_total_ratio"] or ():
            texts += [ratio["bad_service_filter"], ratio["total_service_filter"]]
        for cut in sli["distribution_cut"] or ():
            texts.append(cut["distribution_filter"])
    return texts


def test_queries_are_promql_over_metrics_and_labels_that_exist(plan: Plan) -> None:
    known = {
        promql_name(metric) + ending: (resource, labels)
        for metric, (resource, labels) in known_metrics(log_metrics(plan)).items()
        for ending in ("", "_bucket")
    }
    queries = alerts(plan, "condition_prometheus_query_language")
    assert len(queries) == 9
    for title, one in queries.items():
        found = selectors(one["query"])
        assert found, title
        for metric, matchers in found:
            resource, labels = known[metric]
            # Without its resource a metric of several kinds of resources is refused.
            assert matchers.pop("monitored_resource") == resource, title
            assert set(matchers) <= labels, title


def test_burn_rates_and_objectives_count_the_same_requests(plan: Plan) -> None:
    fast = alerts(plan, "condition_prometheus_query_language")["Predictions fail at once"]["query"]
    for _, matchers in selectors(fast):
        assert matchers["service_name"] == "model-serving-.+"
        assert matchers["revision_name"] == ".+-v0-1"
    [objective] = plan.all("google_monitoring_slo")['availability["movies"]']["request_based_sli"]
    bad, total = (
        objective["good_total_ratio"][0][name]
        for name in ("bad_service_filter", "total_service_filter")
    )
    assert 'revision_name!="model-serving-movies-v0-1"' in bad
    assert 'response_code_class="5xx"' in bad
    assert 'response_code_class!="4xx"' in total
    # 14.4 times the thousandth that the objective leaves, over an hour and over five minutes.
    assert fast.count("> 0.014400") == 2
    assert "[1h]" in fast
    assert "[5m]" in fast


def test_latency_burns_where_the_quantile_passes_the_limit(plan: Plan) -> None:
    queries = alerts(plan, "condition_prometheus_query_language")
    for title, quantile in (
        ("Predictions are slow at once", 1 - 14.4 * 0.05),
        ("Predictions are slow for hours", 1 - 6 * 0.05),
        ("Predictions are slow for a day", 1 - 3 * 0.05),
    ):
        assert queries[title]["query"].count(f"histogram_quantile({quantile:.6f}, sum") == 2
        assert queries[title]["query"].count("> 250)") == 2


def test_instances_are_compared_with_what_each_model_may_have(plan: Plan) -> None:
    query = alerts(plan, "condition_prometheus_query_language")["Instances are at their maximum"]
    compared = {
        tuple(sorted(matchers["service_name"].removeprefix("model-serving-(")[:-1].split("|")))
        for _, matchers in selectors(query["query"])
    }
    assert compared == {("books", "movies"), ("songs",)}
    assert {">= 10", ">= 3"} <= {
        part[-len(">= 10") :].strip() for part in query["query"].split(" or ")
    }


def test_each_alert_says_what_it_is_and_where_its_page_is(plan: Plan) -> None:
    policies = plan.all("google_monitoring_alert_policy")
    assert {one["display_name"].removeprefix("Turnout: ") for one in policies.values()} == titles()
    for policy in policies.values():
        title = policy["display_name"].removeprefix("Turnout: ")
        [documentation] = policy["documentation"]
        anchor = title.lower().replace(" ", "-")
        assert f"https://example.com/runbook.md#{anchor}" in documentation["content"]
        assert len(documentation["content"].splitlines()[0]) > 30
        assert policy["severity"] in {"CRITICAL", "ERROR", "WARNING"}
        assert title.replace(" ", "").isalnum(), "GitHub makes another anchor of other signs"
        kinds = [kind for one in policy["conditions"] for kind, value in one.items() if value]
        assert len([kind for kind in kinds if kind.startswith("condition_")]) == 1, title


def test_critical_alerts_page_and_others_do_not(plan: Plan) -> None:
    pager = "projects/shop-production/notificationChannels/1"
    for policy in plan.all("google_monitoring_alert_policy").values():
        paged = pager in policy["notification_channels"]
        assert paged == (policy["severity"] == "CRITICAL"), policy["display_name"]
        assert len(policy["notification_channels"]) == 2 + paged
        by_log = any(one["condition_matched_log"] for one in policy["conditions"])
        # The API wants it of log-based alerts, and refuses it of others.
        assert by_log == bool(policy["alert_strategy"][0]["notification_rate_limit"])


def test_policies_are_ones_that_googles_own_types_can_hold(plan: Plan) -> None:
    """Names of enumerations and fields, which the provider's schema does not know."""
    for policy in plan.all("google_monitoring_alert_policy").values():
        fields = {name: policy[name] for name in POLICY if policy[name]}
        found = monitoring_v3.AlertPolicy.pb(monitoring_v3.AlertPolicy())
        json_format.ParseDict(_as_google_writes_it(fields), found)
        assert len(found.conditions) == 1


POLICY = ("display_name", "severity", "combiner", "conditions", "alert_strategy", "documentation")
SEVERAL = {"conditions", "aggregations", "group_by_fields", "links"}


def _as_google_writes_it(value: Any, name: str = "") -> Any:
    """Return a resource's values without what is not set; a block that is one is no list."""
    if isinstance(value, list):
        items = [_as_google_writes_it(one) for one in value]
        return items if name in SEVERAL else items[0]
    if isinstance(value, dict):
        known = {key: one for key, one in value.items() if one not in (None, [], {}, "")}
        return {key: _as_google_writes_it(one, key) for key, one in known.items() if key != "name"}
    return value


def tiles(plan: Plan) -> list[dict[str, Any]]:
    [made] = plan.all("google_monitoring_dashboard").values()
    layout = json.loads(made["dashboard_json"])["mosaicLayout"]
    assert layout["columns"] == 48
    return list(layout["tiles"])


def test_tiles_of_the_dashboard_lie_within_it_and_not_on_each_other(plan: Plan) -> None:
    cells: set[tuple[int, int]] = set()
    for tile in tiles(plan):
        columns = range(tile["xPos"], tile["xPos"] + tile["width"])
        rows = range(tile["yPos"], tile["yPos"] + tile["height"])
        assert 0 <= columns[0] <= columns[-1] < 48
        own = {(x, y) for x in columns for y in rows}
        assert not own & cells, tile
        cells |= own
    assert len(tiles(plan)) >= 30


def test_charts_show_metrics_and_labels_that_exist(plan: Plan) -> None:
    known = known_metrics(log_metrics(plan))
    in_promql = {promql_name(metric): found for metric, found in known.items()}
    charts = [tile["widget"]["xyChart"] for tile in tiles(plan) if "xyChart" in tile["widget"]]
    for chart in charts:
        assert chart["dataSets"]
        for query in (one["timeSeriesQuery"] for one in chart["dataSets"]):
            if "prometheusQuery" in query:
                for metric, matchers in selectors(query["prometheusQuery"]):
                    assert set(matchers) <= {"monitored_resource", *in_promql[metric][1]}
                continue
            one = query["timeSeriesFilter"]
            if one["filter"].startswith("select_slo_budget_fraction("):
                continue
            metric, resource = metric_of(one["filter"])
            grouped = one["aggregation"]["groupByFields"]
            assert known[metric][0] == resource
            assert labels_of(one["filter"], grouped) <= known[metric][1], one
