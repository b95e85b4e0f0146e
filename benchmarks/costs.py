"""What an installation costs a month, at list price: `python -m benchmarks.costs --help`.

Prices in US dollars, as known on 28 November 2026 and copied by hand from the pages named in
docs/costs.md, without free tiers, discounts and tax: look there before relying on one, or ask
https://cloud.google.com/products/calculator. Quantities are counted and measured on the local
cloud (docs/measurements.md) or follow from the configuration; what is assumed says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields

from turnout.output import console, print_table

MONTH_S = 730 * 3600
DAY_S = 24 * 3600
GIB = 2**30

# Of one deployment; benchmarks/counted_deployment.py counts how much of each it uses.
PRICES: Mapping[str, float] = {
    "Firestore reads": 0.03 / 100_000,
    "Firestore writes": 0.09 / 100_000,
    "Firestore deletes": 0.01 / 100_000,
    "workflow steps": 0.01 / 1_000,
    "function calls": 0.40 / 1_000_000,
    # 1 vCPU and 512 MiB while a request is answered.
    "function time, s": 0.000024 + 0.5 * 0.0000025,
}
DEPLOYMENT: Mapping[str, float] = {
    "Firestore reads": 77,
    "Firestore writes": 55,
    "Firestore deletes": 0,
    "workflow steps": 28,
    "function calls": 8,
    "function time, s": 6.9,
}
"""Counted by `python -m benchmarks.pipeline`, of a deployment without a bake."""


@dataclass(frozen=True)
class Prices:
    """What differs by region: an instance that is always billed, per vCPU-s and GiB-s."""

    cpu_s: float
    memory_gib_s: float
    factor: float
    """What Firestore and functions cost there, times the cheapest regions' prices."""


TIERS: Mapping[str, Prices] = {
    "1": Prices(0.000018, 0.000002, 1.0),
    "2": Prices(0.0000216, 0.0000024, 1.4),
}
"""Cloud Run's: europe-west1 and us-central1 have the first, europe-central2 the second."""

STORAGE_GIB_MONTH = 0.020
LOGS_GIB = 0.50
EGRESS_GIB = 0.12
SCHEDULER_JOB = 0.10
IMAGE_GIB_MONTH = 0.10
ALERTED_METRIC = 0.35
"""A month, of each metric that a condition names; from 1 September 2027 at the earliest."""
ALERTED_METRICS = 37
"""Counted in the plan by tests/terraform/test_monitoring.py; alerts that read logs name none."""
UPTIME_PLACES, UPTIME_EVERY_S = 6, 300
"""terraform/uptime.tf; of all executions of a project a million a month are free."""

RECONCILE_EVERY_S = 180
RECONCILE_READS, RECONCILE_S = 9, 0.25
"""Documents read, and seconds, for one model at rest (tests/unit/test_costs.py counts them)."""
COLLECT_READS, COLLECT_WRITES, COLLECT_S = 10, 2, 1.0
JUDGE_STEPS, JUDGE_READS, JUDGE_WRITES, JUDGE_S = 8, 6, 2, 1.0
JUDGED_EVERY_S = 60
KEY_READS_S = 1 / 30
USAGE_WRITES_S = 2 / 60
"""An instance writes its sketch of customers, and when a key was used, once a minute."""
JOB_AT_LEAST_S = 60
"""A task of a Cloud Run job is billed for a minute at least."""
IDLE_BEFORE_STOP_S = 900
"""An instance without requests is kept, and billed, for up to a quarter of an hour."""
BUSY_SHARE = 0.6
"""Cloud Run adds an instance when the others' CPU is busier than that."""
PEAK_TO_MEAN = 1.5
LOG_BYTES_A_REQUEST = 1_000
"""Cloud Run's own log entry of a request; assumed."""
LOG_BYTES_A_DEPLOYMENT = 60_000


@dataclass(frozen=True)
class Installation:
    """What is asked for. Each model is like the others."""

    models: int = 1
    deployments_a_day: float = 1.0
    bake_h: float = 1.0
    requests_s: float = 10.0
    capacity_s: float = 6_000.0
    min_instances: int = 1
    cpu: float = 2.0
    memory_gib: float = 2.0
    keys: int = 2
    answer_bytes: float = 700.0
    artifact_mb: float = 50.0
    versions_kept: int = 20
    image_gib: float = 1.0
    tier: str = "2"
    egress: bool = True
    request_logs: bool = True


HELP: Mapping[str, str] = {
    "models": "models that are served",
    "deployments_a_day": "deployments a day, of each model",
    "bake_h": "hours that a rollout bakes: so long two versions have an instance each",
    "requests_s": "mean requests a second, of each model",
    "capacity_s": "requests a second that one instance answers; measure yours",
    "min_instances": "instances of each model that always run",
    "cpu": "vCPU of an instance",
    "memory_gib": "memory of an instance, GiB",
    "keys": "API keys in use, of each model",
    "answer_bytes": "bytes of an answer with its headers",
    "artifact_mb": "a version's artifacts and prepared answers, MB",
    "versions_kept": "versions whose artifacts are kept",
    "image_gib": "size of the serving image, GiB",
    "tier": "Cloud Run's price tier of the region, 1 or 2",
}


def bill(asked: Installation) -> dict[str, float]:
    """Return what each part costs a month, in US dollars."""
    region = TIERS[asked.tier]
    instance_s = asked.cpu * region.cpu_s + asked.memory_gib * region.memory_gib_s
    deployments = asked.models * asked.deployments_a_day * MONTH_S / DAY_S
    requests = asked.models * asked.requests_s * MONTH_S
    instances = _instances(asked)
    bakes_s = asked.bake_h * 3600
    judged = bakes_s / JUDGED_EVERY_S
    reconciled = asked.models * MONTH_S / RECONCILE_EVERY_S
    collected = asked.models * MONTH_S / 3600
    reads = (
        deployments * (DEPLOYMENT["Firestore reads"] + judged * JUDGE_READS)
        + reconciled * RECONCILE_READS
        + collected * COLLECT_READS
        + asked.models * instances * asked.keys * KEY_READS_S * MONTH_S
    )
    writes = (
        deployments * (DEPLOYMENT["Firestore writes"] + judged * JUDGE_WRITES)
        + collected * COLLECT_WRITES
        + asked.models * instances * USAGE_WRITES_S * MONTH_S
    )
    function_s = (
        deployments * (DEPLOYMENT["function time, s"] + judged * JUDGE_S)
        + reconciled * RECONCILE_S
        + collected * COLLECT_S
    )
    logs = requests * LOG_BYTES_A_REQUEST * asked.request_logs
    logs += deployments * LOG_BYTES_A_DEPLOYMENT
    stored_gib = asked.models * asked.versions_kept * asked.artifact_mb * 1e6 / GIB
    steps = DEPLOYMENT["workflow steps"] + judged * JUDGE_STEPS
    documents = reads * PRICES["Firestore reads"] + writes * PRICES["Firestore writes"]
    return {
        "serving instances": asked.models * instances * MONTH_S * instance_s,
        "second instances of rollouts": deployments * (bakes_s + IDLE_BEFORE_STOP_S) * instance_s,
        "jobs that prepare": deployments * JOB_AT_LEAST_S * instance_s,
        "Firestore": documents * region.factor,
        "functions": function_s * PRICES["function time, s"] * region.factor,
        "Workflows": deployments * steps * PRICES["workflow steps"],
        "logs": logs / GIB * LOGS_GIB,
        "storage and images": stored_gib * STORAGE_GIB_MONTH + asked.image_gib * IMAGE_GIB_MONTH,
        "answers to the internet": asked.egress * requests * asked.answer_bytes / GIB * EGRESS_GIB,
        "Scheduler": 2 * SCHEDULER_JOB,
    }


def of_one_deployment(asked: Installation) -> dict[str, float]:
    """Return what one deployment costs, in US dollars."""
    one = Installation(**{**vars(asked), "deployments_a_day": DAY_S / MONTH_S, "models": 1})
    none = Installation(**{**vars(one), "deployments_a_day": 0})
    with_one, without = bill(one), bill(none)
    return {
        name: with_one[name] - without[name]
        for name in with_one
        if with_one[name] > without[name] + 1e-9
    }


def of_a_million_predictions(asked: Installation) -> dict[str, float]:
    """Return what a million requests cost on busy instances, in US dollars."""
    region = TIERS[asked.tier]
    instance_s = asked.cpu * region.cpu_s + asked.memory_gib * region.memory_gib_s
    return {
        "serving instances": 1e6 / (asked.capacity_s * BUSY_SHARE) * instance_s,
        "logs": asked.request_logs * 1e6 * LOG_BYTES_A_REQUEST / GIB * LOGS_GIB,
        "answers to the internet": asked.egress * 1e6 * asked.answer_bytes / GIB * EGRESS_GIB,
    }


def uptime_checks(asked: Installation) -> float:
    """Return how often Google asks for the models' health in a month."""
    return asked.models * UPTIME_PLACES * MONTH_S / UPTIME_EVERY_S


def price(used: Mapping[str, float]) -> float:
    """Return the list price of what one deployment used in US dollars, in the cheapest regions."""
    return sum(used[name] * each for name, each in PRICES.items())


def _instances(asked: Installation) -> float:
    """Return a model's instances, on average over the day."""
    needed = asked.requests_s * PEAK_TO_MEAN / (asked.capacity_s * BUSY_SHARE)
    always_busy = asked.requests_s * IDLE_BEFORE_STOP_S > 1
    return max(float(asked.min_instances), needed, float(always_busy))


def main() -> None:
    """Print the bill of an installation, and what a deployment and a million predictions cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    for one in fields(Installation):
        if one.type == "bool":
            name = f"--no-{one.name.replace('_', '-')}"
            parser.add_argument(name, dest=one.name, action="store_false", help="leave them out")
            continue
        kind = {"int": int, "float": float}.get(str(one.type), str)
        text = f"{HELP[one.name]} ({one.default})"
        parser.add_argument(
            f"--{one.name.replace('_', '-')}", type=kind, default=one.default, help=text
        )
    asked = Installation(**vars(parser.parse_args()))
    if asked.tier not in TIERS:
        parser.error("--tier is 1 or 2")
    for title, found, digits in (
        ("A month, US dollars", bill(asked), 2),
        ("One deployment, US dollars", of_one_deployment(asked), 4),
        ("A million predictions on busy instances, US dollars", of_a_million_predictions(asked), 4),
    ):
        rows = sorted(found.items(), key=lambda row: -row[1])
        rows.append(("together", sum(found.values())))
        print_table(
            title, ["What", "Cost "], [[name, f"{cost:,.{digits}f}"] for name, cost in rows]
        )
    console.print(
        f"List prices without free tiers and a load balancer. Left out as well: "
        f"{uptime_checks(asked):,.0f} executions of uptime checks (a million are free) and, from "
        f"September 2027 at the earliest, ${ALERTED_METRICS * ALERTED_METRIC:.2f} for alerts."
    )


if __name__ == "__main__":
    main()
