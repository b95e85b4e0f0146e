"""Train/serve skew, measured through the endpoints themselves before any traffic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from functions.asking import Candidate, products_of, results_of
from functions.evaluation import HOLDOUT, Unreadable, read_holdout
from shared.domain.deployment import Deployment
from shared.domain.skew import (
    CUTOFFS,
    SHOWN,
    Agreement,
    Finding,
    Recall,
    all_alike,
    find_skew,
    measure_agreement,
    measure_recall,
    measure_spread,
    sample,
)
from shared.errors import Unavailable
from shared.ports import Ports

BATCH = 200
TIMED_CUSTOMERS = 50
ASKED_WITHIN_S, TIMED_WITHIN_S = 400, 60
"""What a slow model did not answer by then is left out: the step has 900 s for everything."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """The report, as it is stored, and what is wrong whatever the policy says."""

    report: dict[str, Any]
    findings: tuple[Finding, ...]
    faults: tuple[str, ...]


class Live:
    """The live version at its own tag, asked for the same customers as long as it is well.

    `why_not` says why it was not asked, or not for all of them: production goes first, so
    it is never asked twice.
    """

    def __init__(self, deployment: Deployment | None, key: str, top_k: int, ports: Ports) -> None:
        self.version = deployment.name if deployment else ""
        self.answers: dict[str, list[str]] = {}
        self.url = ""
        self.why_not = "no version is live yet"
        self._key, self._top_k, self._ports = key, top_k, ports
        if deployment:
            self._find(deployment)

    def ask(self, customers: Sequence[str]) -> None:
        """Ask for one batch, unless it failed before."""
        results = self.call(customers, self._top_k)
        for result in results or []:
            answer = result.get("recommendations")
            self.answers[str(result["customer_id"])] = products_of(answer)

    def call(self, customers: Sequence[str], top_k: int) -> list[Mapping[str, Any]] | None:
        """Return the results, or None where it gave none."""
        if self.why_not:
            return None
        try:
            status, body = self._ports.predictions.recommend(self.url, self._key, customers, top_k)
        except Unavailable as error:
            self.why_not = str(error)
            return None
        results = results_of(status, body, customers)
        if results is None:
            asked = len(self.answers)
            self.why_not = f"{self.version} answered {status} after {asked:,} customers"
        return results

    def _find(self, deployment: Deployment) -> None:
        urls = self._ports.cloud_run.service(deployment.config.service).tag_urls
        if deployment.tag not in urls:
            self.why_not = f"{self.version} has no tag {deployment.tag!r} to ask it at"
            return
        self.url = urls[deployment.tag]
        try:
            status, body = self._ports.predictions.health(self.url)
        except Unavailable as error:
            self.why_not = str(error)
            return
        if status != 200 or body.get("model_version") != self.version:
            said = body.get("model_version", "nobody")
            self.why_not = f"{said} answers {status} at the tag of {self.version}"
            return
        self.why_not = ""
        self._top_k = min(self._top_k, int(body.get("products", self._top_k)))


def measure(
    deployment: Deployment, candidate: Candidate, products: int, ports: Ports, tell: Tell
) -> Measured:
    """Ask candidate and live for the held-out customers, or else for the golden ones.

    `products` is the size of the candidate's catalogue; `tell` is told how far it is.
    """
    policy = deployment.policy.skew
    held_out, why_none = _held_out(deployment, ports)
    customers = sample(held_out, policy.customers) or list(
        dict.fromkeys(deployment.config.golden_customers)
    )
    kind = "held-out customers" if held_out else "golden customers"
    live = Live(_active(deployment.model_id, ports), candidate.key, candidate.top_k, ports)
    until = ports.clock.now() + timedelta(seconds=ASKED_WITHIN_S)
    for begin in range(0, len(customers), BATCH):
        if candidate.gave_up or ports.clock.now() >= until:
            break
        batch = customers[begin : begin + BATCH]
        candidate.ask(batch)
        live.ask(batch)
        tell(f"{begin + len(batch):,} of {len(customers):,} {kind} asked")
    answers = candidate.answers
    recalls = _recalls(deployment, answers, held_out)
    spread = measure_spread(answers, products) if answers else None
    agreement = measure_agreement(answers, live.answers)
    findings = [
        *_unmeasured(deployment, why_none, recalls, live, agreement),
        *find_skew(policy, recalls, spread, agreement),
    ]
    faults, notes = _faults(candidate, live, kind)
    latency = None if faults else _latency(candidate, live, customers, ports)
    unknown = len(candidate.unknown)
    if unknown:
        notes.append(f"{unknown:,} of {len(answers):,} {kind} are unknown to the model")
    if candidate.asked < len(customers) and not candidate.gave_up:
        notes.append(f"{candidate.asked:,} of {len(customers):,} {kind} were asked in the time")
    if live.why_not:
        notes.append(f"not compared with live: {live.why_not}")
    report = {
        "check": policy.check.value,
        "customers": {
            "kind": kind,
            "given": len(held_out) or len(customers),
            "asked": candidate.asked,
            "answered": len(answers),
            "unknown_share": unknown / len(answers) if answers else None,
        },
        "recall": {f"recall_at_{recall.k}": asdict(recall) for recall in recalls},
        "tolerance": policy.tolerance,
        "spread": asdict(spread) if spread else None,
        "live": {
            "version": live.version,
            "why_not": live.why_not,
            "agreement": asdict(agreement) if agreement else None,
            "spread": asdict(measure_spread(live.answers, products)) if live.answers else None,
        },
        "latency": latency,
        "findings": [asdict(finding) for finding in findings],
        "faults": faults,
        "notes": notes,
    }
    return Measured(report, tuple(findings), tuple(faults))


def summary(report: Mapping[str, Any]) -> str:
    """Return the report in a sentence."""
    customers, live = report["customers"], report["live"]
    said = [f"{customers['answered']:,} {customers['kind']} answered"]
    for recall in report["recall"].values():
        reported = recall["reported"]
        beside = "" if reported is None else f" ({reported:.3f} in training)"
        said.append(f"Recall@{recall['k']} {recall['served']:.3f}{beside}")
    if live["agreement"]:
        said.append(f"overlap with {live['version']} {live['agreement']['overlap']:.0%}")
    said += [finding["why"] for finding in report["findings"]]
    return "; ".join([*said, *report["notes"]])


def _held_out(deployment: Deployment, ports: Ports) -> tuple[Mapping[str, tuple[str, ...]], str]:
    """Return what the held-out customers took, or why there are none."""
    try:
        held_out = read_holdout(deployment.serving_model_path, ports)
    except Unreadable as why:
        return {}, str(why)
    return held_out, "" if held_out else f"{HOLDOUT} is empty"


def _active(model_id: str, ports: Ports) -> Deployment | None:
    active = ports.state.model(model_id).active
    return ports.state.deployment(active) if active else None


def _recalls(
    deployment: Deployment,
    answers: Mapping[str, Sequence[str]],
    held_out: Mapping[str, Sequence[str]],
) -> list[Recall]:
    if not held_out or not answers:
        return []
    reported = deployment.metrics
    return [measure_recall(k, answers, held_out, reported.get(f"recall_at_{k}")) for k in CUTOFFS]


def _unmeasured(
    deployment: Deployment,
    why_none: str,
    recalls: Sequence[Recall],
    live: Live,
    agreement: Agreement | None,
) -> list[Finding]:
    """Return what the policy wants to know and nobody could measure: never silently passed."""
    found = []
    if why_none:
        found.append(
            Finding(
                "holdout",
                f"no held-out customers were given ({why_none}): let training write {HOLDOUT} "
                "beside the model",
            )
        )
    elif all(recall.reported is None for recall in recalls):
        names = ", ".join(f"recall_at_{k}" for k in CUTOFFS)
        found.append(
            Finding(
                "reported",
                f"training reported none of {names}, so recall through the endpoint has nothing "
                "to be compared with: add one to the message's metrics",
            )
        )
    wanted = deployment.policy.skew.minimum_overlap
    if wanted is not None and live.version and agreement is None:
        found.append(Finding("overlap", f"the overlap is not known: {live.why_not}"))
    return found


def _faults(candidate: Candidate, live: Live, kind: str) -> tuple[list[str], list[str]]:
    """Return what no version may do, and what is only worth a note."""
    if candidate.wrong or candidate.gave_up:
        return [_wrong_answers(candidate, kind)], []
    known = {
        customer: answer
        for customer, answer in candidate.answers.items()
        if customer not in candidate.unknown
    }
    if not all_alike(known):
        return [], []
    said = f"all {len(known):,} known {kind} get the same products in the same order"
    if all_alike({one: live.answers[one] for one in known if one in live.answers}):
        return [], [f"{said}, as from {live.version}: a popularity model"]
    return [
        f"{said}, and the live version does not answer so ({live.why_not or live.version}); "
        "if it is meant (a popularity model), set the policy's skew.check to off for it"
    ], []


def _wrong_answers(candidate: Candidate, kind: str) -> str:
    least = "at least " if candidate.gave_up else ""
    example = next(iter(candidate.wrong.values()), "none answered alone")
    return (
        f"{least}{len(candidate.wrong):,} of {candidate.asked:,} {kind} got no right answer, "
        f"such as {example}"
    )


def _latency(
    candidate: Candidate, live: Live, customers: Sequence[str], ports: Ports
) -> dict[str, float | int | None]:
    """Return the times of single customers, asked of both in turn, so that both meet the same."""
    until = ports.clock.now() + timedelta(seconds=TIMED_WITHIN_S)
    top_k = min(SHOWN, candidate.top_k)
    ours_ms: list[float] = []
    theirs_ms: list[float] = []

    def ask_candidate(customer: str) -> None:
        begin = ports.clock.now()
        status, _ = ports.predictions.recommend(candidate.url, candidate.key, [customer], top_k)
        if status == 200:
            ours_ms.append(_since_ms(begin, ports))

    def ask_live(customer: str) -> None:
        begin = ports.clock.now()
        if live.call([customer], top_k) is not None:
            theirs_ms.append(_since_ms(begin, ports))

    for number, customer in enumerate(customers[:TIMED_CUSTOMERS]):
        if ports.clock.now() >= until:
            break
        # Who goes first meets a cold path more often: they take turns in that too.
        both = (ask_candidate, ask_live) if number % 2 else (ask_live, ask_candidate)
        for ask in both:
            ask(customer)
    return {
        "customers": len(ours_ms),
        "p50_ms": _quantile(ours_ms, 0.5),
        "p95_ms": _quantile(ours_ms, 0.95),
        "live_p50_ms": _quantile(theirs_ms, 0.5),
        "live_p95_ms": _quantile(theirs_ms, 0.95),
    }


def _since_ms(begin: datetime, ports: Ports) -> float:
    return (ports.clock.now() - begin).total_seconds() * 1000


def _quantile(values: list[float], share: float) -> float | None:
    """Return the smallest value that `share` of them do not exceed; None of none."""
    if not values:
        return None
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 3)
