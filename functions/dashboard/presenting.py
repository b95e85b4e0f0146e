"""How the pages word what the API gives: numbers, times, metrics, and sentences about traffic."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from functions.dashboard.schemas import (
    AgreementView,
    DecisionView,
    DeploymentView,
    EventView,
    JudgementView,
    LatencyView,
    MetricChange,
    ModelView,
    RecallView,
    RunView,
    SkewView,
    SpreadView,
    StageView,
    TrafficShare,
)
from shared.domain.canary import Verdict
from shared.domain.deployment import Status, StepName, StepState

NBSP = "\u00a0"
MINUS = "\u2212"
SMALLEST_POINT = 0.05
VERSION_COLOURS = 8
"""How many colours versions take in turn; `static/turnout.css` names them c0, c1, ..."""

Row = tuple[str, str, str]
"""What was measured, a version's number, and what stands beside it."""

TOLERABLE, BAD = 0.001, 0.01
"""The share of today's predictions that may fail before a page says so in other words."""

_SHARES = ("recall", "precision", "hit_rate", "coverage", "ndcg", "map", "mrr", "accuracy", "auc")
_WORDS = {
    Status.DEPLOYING: "Deploying",
    Status.ACTIVE: "Active",
    Status.INACTIVE: "Inactive",
    Status.FAILED: "Failed",
    Status.ROLLED_BACK: "Rolled back",
    Status.CANCELLED: "Cancelled",
}
_ADVICE = {
    StepName.COPY_ARTIFACTS: (
        "Look at the training run's files; when they are complete, deploy the run again, "
        "or train it again under a new run number."
    ),
    StepName.PREPARE_MODEL: (
        "The model was loaded before anything was changed. Where it was refused, export it as "
        "the reason asks and train it again; where the job failed, look at its logs, then "
        "deploy the run again."
    ),
    StepName.CONFIGURE_SERVICE: (
        "Look at the service's logs and at the model's image and limits, then deploy again."
    ),
    StepName.DEPLOY_REVISION: (
        "Look at the service's logs: the revision says there why it did not start. "
        "Deploy another run, or this one again after the fault is mended."
    ),
    StepName.HEALTH_CHECKS: (
        "The model started and its answers were not right. Compare the run with the live "
        "version, look at how it was trained, and deploy another run."
    ),
    StepName.SWITCH_TRAFFIC: (
        "Compare errors and latency of both versions on the metrics page before you try again."
    ),
}


def status_word(status: str) -> str:
    """Return the status as people read it: `Rolled back`."""
    return _WORDS[Status(status)]


def colour(version: str) -> str:
    """Return the colour class of `v3`, the same on every page."""
    digits = re.sub(r"\D", "", version)
    return f"c{int(digits or 0) % VERSION_COLOURS}"


def moment(at: datetime) -> str:
    """Return a time as `24 Nov 2026, 14:00 UTC`; a script turns it into the reader's zone."""
    return f"{at.astimezone(UTC):%-d %b %Y, %H:%M} UTC"


def exactly(at: datetime) -> str:
    """Return a time with its seconds, for those who hover."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def stamp(at: datetime) -> str:
    """Return a time for machines: `2026-11-24T14:00:00Z`."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def age(at: datetime, now: datetime) -> str:
    """Return how long ago, in one unit: `6 hours ago`, `in 3 days`."""
    seconds = (now - at).total_seconds()
    if -60 < seconds < 60:
        return "just now"
    amount = _amount(abs(seconds))
    return f"{amount} ago" if seconds > 0 else f"in {amount}"


def _amount(seconds: float) -> str:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size * (2 if unit == "day" else 1):
            return _plural(int(seconds // size), unit)
    return _plural(max(round(seconds), 1), "second")


def duration(seconds: float) -> str:
    """Return a planned time, whole: `30 minutes`, `1 hour 30 minutes`."""
    left = round(seconds)
    parts = []
    for unit, size in (("hour", 3_600), ("minute", 60), ("second", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(_plural(count, unit))
    return " ".join(parts) or "0 seconds"


def estimate(seconds: float) -> str:
    """Return an estimate no finer than it deserves: `about 20 seconds`."""
    if seconds < 5:
        return "a few seconds"
    if seconds < 60:
        return f"about {5 * round(seconds / 5)} seconds"
    if seconds < 5_400:
        return f"about {_plural(round(seconds / 60), 'minute')}"
    return f"about {_plural(round(seconds / 3_600), 'hour')}"


def took(seconds: float) -> str:
    """Return a measured time: `0.8 s`, `41 s`, `12 min`."""
    if seconds < 10:
        return f"{seconds:.1f}{NBSP}s"
    return f"{seconds:.0f}{NBSP}s" if seconds < 600 else f"{seconds / 60:.0f}{NBSP}min"


def hour_words(at: datetime) -> str:
    """Return the hour of a table's row: `24 Nov, 14:00`."""
    return f"{at.astimezone(UTC):%-d %b, %H:%M}"


def as_sentence(text: str) -> str:
    """Return it with a capital and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def thousands(number: int) -> str:
    """Return `12,450`."""
    return f"{number:,}"


def share(value: float | None, digits: int = 1) -> str:
    """Return a share (0-1) as `46.8 %`."""
    return "\u2013" if value is None else f"{100 * value:.{digits}f}{NBSP}%"


def rate(errors: int, of: int) -> str:
    """Return errors beside the sample's size: `3 of 12,450 (0.02 %)`."""
    return f"{errors:,} of {of:,} ({share(errors / of, 2)})" if of else "none of 0"


def milliseconds(value: float | None) -> str:
    """Return milliseconds without their unit, which stands in the header."""
    if value is None:
        return "\u2013"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def metric_title(name: str) -> str:
    """Return `Recall@100` for `recall_at_100`."""
    title = re.sub(r"_at_(\d+)$", r"@\1", name)
    return (title[:1].upper() + title[1:]).replace("_", " ")


def is_share(metric: str) -> bool:
    """True for metrics between 0 and 1, which are read in percent."""
    return metric.startswith(_SHARES)


def metric_order(metric: str) -> tuple[str, int]:
    """Sort metrics of one kind together, the longest list first: Recall@100, @50, @10."""
    found = re.fullmatch(r"(.+)_at_(\d+)", metric)
    return (found[1], -int(found[2])) if found else (metric, 0)


def in_order(changes: Sequence[MetricChange]) -> list[MetricChange]:
    """Return a comparison's metrics: those of the primary one's kind first, then by name."""
    first = metric_order(changes[0].metric)[0] if changes else ""
    return sorted(
        changes,
        key=lambda one: (metric_order(one.metric)[0] != first, metric_order(one.metric)),
    )


def metrics_in_order(metrics: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return metrics sorted for reading."""
    return sorted(metrics.items(), key=lambda item: metric_order(item[0]))


def metric_value(metric: str, value: float | None) -> str:
    """Return a metric's value, in percent where it is a share."""
    if value is None:
        return "\u2013"
    return share(value) if is_share(metric) else f"{value:,.4g}"


def difference(metric: str, change: float | None) -> str:
    """Return a difference with its direction and sign: `↑ +0.4 points`."""
    if change is None:
        return "not comparable"
    points = f"{NBSP}points" if is_share(metric) else ""
    if not change:
        return f"= 0{points}"
    size = abs(100 * change) if is_share(metric) else abs(change)
    # A difference too small for one decimal keeps its first digit: it is never shown as 0.0.
    shown = f"{size:.1f}" if points and size >= SMALLEST_POINT else f"{size:.{1 if points else 4}g}"
    return f"{'↑ +' if change > 0 else f'↓ {MINUS}'}{shown}{points}"


def verdict(change: MetricChange) -> str:
    """Return `better`, `worse` or `equal`; nothing where one side does not report it."""
    if change.change is None:
        return ""
    if change.better is None:
        return "equal"
    return "better" if change.better else "worse"


def _plural(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def schedule(stages: Sequence[StageView]) -> list[tuple[int, str]]:
    """Return each stage's share in percent and when it begins: `(50, "after 30 minutes")`."""
    begins_s, plan = 0, []
    for stage in stages:
        plan.append((stage.percent, f"after {duration(begins_s)}" if begins_s else "at once"))
        begins_s += stage.bake_s
    return plan


def traffic_sentence(version: str, current: str | None, stages: Sequence[StageView]) -> str:
    """Say what traffic will do and when, before it does."""
    first, *others = (f"{percent}{NBSP}% {when}" for percent, when in schedule(stages))
    moves = first.replace("%", "% of the traffic", 1)
    if others:
        moves = f"{', '.join([moves, *others[:-1]])} and {others[-1]}"
    stays = (
        f"{current} stays ready, one click away."
        if current
        else "There is no earlier version to go back to yet."
    )
    return (
        f"First {version} is copied, prepared, started and checked; until then nothing changes. "
        f"Then it takes {moves}. {stays}"
    )


def stage_states(deployment: DeploymentView) -> list[tuple[int, str, str]]:
    """Return each stage's share, when it begins, and `done`, `now` or `later`."""
    states = []
    for percent, when in schedule(deployment.stages):
        if deployment.status in (Status.FAILED, Status.CANCELLED):
            state = "later"
        elif percent < deployment.traffic_percent or deployment.status is not Status.DEPLOYING:
            state = "done"
        else:
            state = "now" if percent == deployment.traffic_percent else "later"
        states.append((percent, when, state))
    return states


def traffic_words(traffic: Sequence[TrafficShare]) -> str:
    """Return what is served, largest share first: `v3 90 %, v4 10 %`."""
    ordered = sorted(traffic, key=lambda one: -one.percent)
    return ", ".join(f"{one.version} {one.percent}{NBSP}%" for one in ordered) or "not known"


def heading(deployment: DeploymentView) -> str:
    """Say in a few words where a deployment stands."""
    name = deployment.name
    if deployment.waiting:
        return f"{name} waits for its turn"
    if deployment.status is Status.DEPLOYING:
        if deployment.holding_since:
            return f"{name} waits for a person"
        return f"Deploying {name}, paused" if deployment.paused else f"Deploying {name}"
    return {
        Status.ACTIVE: f"{name} is live",
        Status.INACTIVE: f"{name} was live and is ready to return",
        Status.ROLLED_BACK: f"{name} was rolled back",
        Status.FAILED: f"{name} failed",
        Status.CANCELLED: f"{name} was cancelled",
    }[deployment.status]


def step_at_hand(deployment: DeploymentView) -> str:
    """Return the title of the step that runs, or nothing."""
    return next((one.title for one in deployment.steps if one.state is StepState.RUNNING), "")


def announcement(deployment: DeploymentView) -> str:
    """Say the state for those who listen: it changes only when a step or the share does."""
    if deployment.status is not Status.DEPLOYING or deployment.waiting:
        return heading(deployment)
    return f"{heading(deployment)}: {step_at_hand(deployment) or 'starting'}, " + (
        f"{deployment.traffic_percent} percent of traffic"
    )


def fate_of_traffic(deployment: DeploymentView, events: Sequence[EventView]) -> str:
    """Say what traffic did in a rollout that ended without becoming live."""
    revision = deployment.cloud_run_revision
    most = max((event.traffic.get(revision, 0) for event in events), default=0) if revision else 0
    if not most:
        return f"{deployment.name} never received any traffic; customers noticed nothing of it."
    return (
        f"{deployment.name} had reached {most}{NBSP}% of the traffic. All of it was put back "
        "to where it was before the rollout."
    )


def advice(deployment: DeploymentView) -> str:
    """Say what a person can do about a failed deployment."""
    failed = next((one for one in deployment.steps if one.state is StepState.FAILED), None)
    return _ADVICE[failed.name] if failed else "Read the reason above, then deploy again."


def wellbeing(model: ModelView) -> tuple[str, str]:
    """Answer "is it well" in a few words, and as `good`, `warning`, `bad` or `quiet`."""
    today = model.today
    if model.live is None:
        return "Nothing is live yet", "quiet"
    if not today.requests:
        return "No predictions asked for today", "quiet"
    failed = today.errors / today.requests
    if not today.errors:
        return "Well: no errors today", "good"
    if failed < TOLERABLE:
        return f"Well: {share(1 - failed, 2)} of today's predictions answered", "good"
    words = f"{share(failed, 2)} of today's predictions failed"
    return (f"Look closer: {words}", "warning") if failed < BAD else (f"Not well: {words}", "bad")


def is_moving(model: ModelView) -> bool:
    """True while something changes by itself, so that looking again is worth it."""
    return model.under_way is not None or model.waiting is not None


def config_words(run: RunView) -> str:
    """Return `config-042 (Large embeddings)`."""
    return _with_note(run.feature_config_id, run.feature_config_name)


def dataset_words(run: RunView) -> str:
    """Return `Q4 2024 Training Data (v3)`."""
    return _with_note(run.dataset_name, f"v{run.dataset_version}" if run.dataset_version else "")


def _with_note(name: str, note: str) -> str:
    return f"{name} ({note})" if name and note else name or note or "not reported"


_VERDICTS = {
    Verdict.PASS: ("done", "As good as live"),
    Verdict.FAIL: ("failed", "Worse than live"),
    Verdict.INCONCLUSIVE: ("pending", "Not clear yet"),
}


def judged_word(judgement: JudgementView) -> tuple[str, str]:
    """Return the verdict's shape and word."""
    return _VERDICTS[judgement.verdict]


def judged_rows(judgement: JudgementView) -> list[Row]:
    """Return what was measured: name, the candidate's number, the live version's.

    A rate has its sample's size in the row above it.
    """
    numbers = judgement.numbers
    rows = [
        (title, say(numbers, "candidate"), say(numbers, "live"))
        for title, say in (
            ("Requests", _requests_of),
            ("Failed", _failed_of),
            ("p50, ms", lambda numbers, side: milliseconds(numbers.get(f"{side}_p50_ms"))),
            ("p95, ms", lambda numbers, side: milliseconds(numbers.get(f"{side}_p95_ms"))),
        )
    ]
    return rows if numbers else []


def _requests_of(numbers: Mapping[str, float | None], side: str) -> str:
    count = numbers.get(f"{side}_requests")
    return "\u2013" if count is None else thousands(round(count))


def _failed_of(numbers: Mapping[str, float | None], side: str) -> str:
    count, errors = numbers.get(f"{side}_requests"), numbers.get(f"{side}_errors")
    if not count or errors is None:
        return "\u2013"
    return f"{thousands(round(errors))} ({share(errors / count, 2)})"


def skew_rows(skew: SkewView) -> list[Row]:
    """Return the report on a version's answers: what, its own number, and what stands beside it."""
    live = skew.live_version
    rows = [_recall_row(recall) for recall in skew.recalls]
    if skew.spread:
        rows += _spread_rows(skew.spread, skew.live_spread, live)
    if skew.agreement:
        same = skew.agreement
        of = f"{thousands(same.customers)} customers"
        rows.append((f"Of ten products, the same as {live}", share(same.overlap), of))
        if same.rank_correlation is not None:
            rows.append((f"In the order of {live} (rank correlation)", _signed(same), of))
    if skew.latency:
        rows += _latency_rows(skew.latency, live)
    return rows


def _recall_row(recall: RecallView) -> Row:
    served = share(recall.served)
    if recall.asked < recall.held_out:
        served += f" ({100 * recall.low:.1f} to {100 * recall.high:.1f})"
    beside = "not reported" if recall.reported is None else f"{share(recall.reported)} in training"
    return f"Recall@{recall.k}", served, beside


def _spread_rows(ours: SpreadView, theirs: SpreadView | None, live: str) -> list[Row]:
    def beside(value: float | None) -> str:
        return "\u2013" if value is None else f"{share(value)} at {live}"

    return [
        (
            f"Of {thousands(ours.products)} products, recommended to anybody",
            share(ours.coverage),
            beside(theirs.coverage if theirs else None),
        ),
        (
            "Customers who get the most popular product",
            share(ours.concentration),
            beside(theirs.concentration if theirs else None),
        ),
    ]


def _signed(same: AgreementView) -> str:
    return f"{same.rank_correlation:+.2f}".replace("-", MINUS)


def _latency_rows(latency: LatencyView, live: str) -> list[Row]:
    rows = []
    for name, ours, theirs in (
        ("p50", latency.p50_ms, latency.live_p50_ms),
        ("p95", latency.p95_ms, latency.live_p95_ms),
    ):
        if ours is None:
            continue
        beside = "\u2013" if theirs is None else f"{milliseconds(theirs)}{NBSP}ms at {live}"
        rows.append((f"Latency of one customer, {name}", f"{milliseconds(ours)}{NBSP}ms", beside))
    return rows


def tested_words(decision: DecisionView) -> str:
    """Say what the test over the same customers found, or why there was none.

    Nothing where the decision's own sentence says it already.
    """
    tested = decision.by_customer
    if tested and f"{tested.n:,} customers" in decision.why:
        return ""
    if tested is None:
        return f"Not tested over the same customers: {decision.untested}." * bool(decision.untested)
    return (
        f"For the same {thousands(tested.n)} customers: {_points(tested.mean)} "
        f"({100 * tested.confidence:g}{NBSP}% interval {_points(tested.low)} to "
        f"{_points(tested.high)}), p {tested.p:.2g}."
    )


def _points(change: float) -> str:
    return f"{'+' if change >= 0 else MINUS}{abs(change):.4f}"
