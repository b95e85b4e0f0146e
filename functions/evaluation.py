"""What training leaves about single customers, `evaluation/*.jsonl`, read within bounds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from shared.errors import ArtifactsRefused
from shared.ports import Ports

BYTES_AT_MOST = 64 * 2**20
HOLDOUT, RESULTS = "evaluation/holdout.jsonl", "evaluation/results.jsonl"
_LARGEST = 1e100


class Unreadable(Exception):
    """There is no such file, or it is not what it should be; the text says which."""


def read_holdout(uri: str, ports: Ports) -> dict[str, tuple[str, ...]]:
    """Return what each held-out customer of a version's artifacts really took; Unreadable.

    `uri` is gs://BUCKET/FOLDER. Customers who took nothing are left out: nothing to recall.
    """
    held_out: dict[str, tuple[str, ...]] = {}
    for place, line in _lines(uri, HOLDOUT, ports):
        customer, taken = _customer(place, line, held_out), line.get("product_ids")
        if not isinstance(taken, list) or not all(isinstance(one, str) for one in taken):
            raise Unreadable(f"{place}: product_ids is no list of texts")
        held_out[customer] = tuple(taken)
    return {customer: taken for customer, taken in held_out.items() if taken}


def read_results(uri: str, metric: str, ports: Ports) -> dict[str, float]:
    """Return one metric by customer, of those who have it; Unreadable."""
    results: dict[str, float | None] = {}
    for place, line in _lines(uri, RESULTS, ports):
        customer, value = _customer(place, line, results), line.get(metric)
        if value is not None and not _is_number(value):
            raise Unreadable(f"{place}: {metric} is not a finite number")
        results[customer] = None if value is None else float(value)
    return {customer: value for customer, value in results.items() if value is not None}


def _lines(uri: str, name: str, ports: Ports) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give each line of a file as an object, with its place for people."""
    bucket, _, folder = uri.rstrip("/").removeprefix("gs://").partition("/")
    path = f"{folder}/{name}"
    if not folder:
        raise Unreadable(f"no artifacts are kept, so there is no {name}")
    try:
        sizes = [one.size for one in ports.objects.list(bucket, path) if one.name == path]
    except ArtifactsRefused as refusal:
        raise Unreadable(str(refusal)) from None
    if sizes and sizes[0] > BYTES_AT_MOST:
        size_mib = sizes[0] / 2**20
        raise Unreadable(f"gs://{bucket}/{path} has {size_mib:.0f} MiB, more than 64: sample it")
    content = ports.objects.read(bucket, path) if sizes else None
    if content is None:
        raise Unreadable(f"gs://{bucket}/{path} is not there")
    for number, line in enumerate(content.splitlines(), 1):
        place = f"line {number} of {name}"
        try:
            found = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError):
            raise Unreadable(f"{place} is not JSON") from None
        if not isinstance(found, dict):
            raise Unreadable(f"{place} is no JSON object")
        if found:
            yield place, found


def _customer(place: str, line: dict[str, Any], known: dict[str, Any]) -> str:
    customer = line.get("customer_id")
    # JSON can escape half a character, which no request could carry.
    if not isinstance(customer, str) or customer.encode(errors="ignore").decode() != customer:
        raise Unreadable(f"{place}: customer_id is no text")
    if not customer:
        raise Unreadable(f"{place}: customer_id is empty")
    if customer in known:
        raise Unreadable(f"{place}: customer {customer!r} comes twice")
    return customer


def _is_number(value: object) -> bool:
    """Say whether it is a number that sums and squares of many stay finite with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
