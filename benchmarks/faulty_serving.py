"""The serving container with a fault: `python -m benchmarks.faulty_serving`, as an image.

It is the real one (`python -m serving`), whose application is wrapped in its worker processes
when the version's artifacts hold a `fault.json`: {"kind": one of FAULTS, and its settings}. Two
kinds strike before anything is served: `version` says another version's name, `start` sleeps.
Preparing answers is not touched.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from serving import __main__ as container
from serving import worker
from serving.bucket import Bucket
from serving.settings import read_settings

FAULT_FILE = "fault.json"
_VARIABLE = "BENCH_FAULT"
ONE, BATCH = "/recommend", "/recommend-batch"
_FAILED = (
    "500 Internal Server Error",
    b'{"title":"Internal Server Error","status":500,"detail":"a fault that was put in"}',
)
# Only so much leaks: the kill comes by a look every two seconds, and the machine has other uses.
LEAKED_AT_MOST = 3 << 30


@dataclass(frozen=True)
class Question:
    """One request of the prediction API."""

    path: str
    customers: tuple[str, ...]


@dataclass(frozen=True)
class Reply:
    """What the real application answered, or what is answered in its place."""

    status: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


GoOn = Callable[[], Reply]
Fault = Callable[[Question, GoOn], Reply]


def one_in(customer: str, number: int) -> bool:
    """Say whether the customer is one of every `number`, the same ones everywhere."""
    return crc32(customer.encode()) % number == 0


def _fails_some(settings: Mapping[str, Any]) -> Fault:
    """500 for one in so many customers, at /recommend alone: checks ask in batches."""

    def answer(question: Question, go_on: GoOn) -> Reply:
        hit = question.path == ONE and one_in(question.customers[0], settings["one_in"])
        return _failed() if hit else go_on()

    return answer


def _fails_region(settings: Mapping[str, Any]) -> Fault:
    """500 where a customer's id begins so, whatever the path."""

    def answer(question: Question, go_on: GoOn) -> Reply:
        hit = any(customer.startswith(settings["prefix"]) for customer in question.customers)
        return _failed() if hit else go_on()

    return answer


def _slow(settings: Mapping[str, Any]) -> Fault:
    """One single request in so many is answered that much later (ms)."""

    def answer(question: Question, go_on: GoOn) -> Reply:
        if question.path == ONE and random.randrange(settings["one_in"]) == 0:
            time.sleep(settings["delay_ms"] / 1000)
        return go_on()

    return answer


def _leaks(settings: Mapping[str, Any]) -> Fault:
    """Each single request leaves so many bytes behind."""
    kept: list[bytes] = []

    def answer(question: Question, go_on: GoOn) -> Reply:
        if question.path == ONE and len(kept) * settings["bytes"] < LEAKED_AT_MOST:
            kept.append(b"\1" * settings["bytes"])
        return go_on()

    return answer


def _empty_some(settings: Mapping[str, Any]) -> Fault:
    """No products for one in so many customers, and 200."""

    def emptied(result: dict[str, Any]) -> dict[str, Any]:
        hit = one_in(result["customer_id"], settings["one_in"])
        return {**result, "recommendations": []} if hit else result

    def answer(question: Question, go_on: GoOn) -> Reply:
        reply = go_on()
        hit = any(one_in(customer, settings["one_in"]) for customer in question.customers)
        if not reply.status.startswith("200") or not hit:
            return reply
        body = json.loads(reply.body)
        if question.path == ONE:
            return _with_body(reply, emptied(body))
        return _with_body(reply, {**body, "results": [emptied(one) for one in body["results"]]})

    return answer


def _fails_later(settings: Mapping[str, Any]) -> Fault:
    """Right for so many seconds after the first single request, then 500 for everybody."""
    first: list[float] = []

    def answer(question: Question, go_on: GoOn) -> Reply:
        if question.path == ONE and not first:
            first.append(time.monotonic())
        if first and time.monotonic() - first[0] >= settings["after_s"]:
            return _failed()
        return go_on()

    return answer


def _crashes(settings: Mapping[str, Any]) -> Fault:
    """The container dies when a worker gets more than so many single requests within some time."""
    came: deque[float] = deque()
    lock = threading.Lock()

    def answer(question: Question, go_on: GoOn) -> Reply:
        if question.path == ONE:
            with lock:
                now = time.monotonic()
                came.append(now)
                while came[0] < now - settings["within_s"]:
                    came.popleft()
                if len(came) > settings["requests"]:
                    _die()
        return go_on()

    return answer


def _die() -> None:
    """Kill the main process, as a crash would; everything that it started follows it."""
    main = multiprocessing.parent_process()
    if main is not None and main.pid:
        os.kill(main.pid, signal.SIGKILL)


FAULTS: dict[str, Callable[[Mapping[str, Any]], Fault]] = {
    "errors": _fails_some,
    "region": _fails_region,
    "slow": _slow,
    "leak": _leaks,
    "empty": _empty_some,
    "later": _fails_later,
    "crash": _crashes,
}


class Faulty:
    """A WSGI application in front of the real one; what is no prediction passes untouched."""

    def __init__(self, inner: Callable[..., Iterable[bytes]], fault: Fault) -> None:
        self._inner = inner
        self._fault = fault

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        question = _read_question(environ)
        if question is None:
            return self._inner(environ, start_response)
        reply = self._fault(question, lambda: self._ask(environ))
        start_response(reply.status, list(reply.headers))
        return [reply.body]

    def _ask(self, environ: dict[str, Any]) -> Reply:
        begun: list[Any] = []
        body = b"".join(self._inner(environ, lambda *answer: begun.extend(answer)))
        return Reply(begun[0], tuple(begun[1]), body)


def _read_question(environ: dict[str, Any]) -> Question | None:
    """Return what is asked, and leave the body to be read once more; None where it is no such."""
    path = environ["PATH_INFO"]
    if path not in (ONE, BATCH) or environ["REQUEST_METHOD"] != "POST":
        return None
    content = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(content)
    try:
        asked = json.loads(content)
        customers = [asked["customer_id"]] if path == ONE else asked["customer_ids"]
    except (ValueError, KeyError, TypeError):
        return None
    return Question(path, tuple(map(str, customers)))


def _failed() -> Reply:
    status, body = _FAILED
    return _sized(status, (("Content-Type", "application/problem+json"),), body)


def _with_body(reply: Reply, body: Any) -> Reply:
    headers = tuple(one for one in reply.headers if one[0].lower() != "content-length")
    return _sized(reply.status, headers, json.dumps(body, separators=(",", ":")).encode())


def _sized(status: str, headers: tuple[tuple[str, str], ...], body: bytes) -> Reply:
    return Reply(status, (*headers, ("Content-Length", str(len(body)))), body)


_build = worker.build


def build(launch: worker.Launch) -> Callable[..., Any]:
    """Return the worker's application, with the fault in front of it."""
    inner = _build(launch)
    fault = json.loads(os.environ[_VARIABLE])
    return Faulty(inner, FAULTS[fault["kind"]](fault))


def _read_fault() -> dict[str, Any]:
    """Return the version's fault, {} where it has none."""
    artifact = read_settings(os.environ).artifact
    if artifact is None:
        return {}
    bucket = Bucket(artifact.bucket, artifact.prefix)
    if bucket.find(FAULT_FILE) is None:
        return {}
    found: dict[str, Any] = json.loads(bucket.read(FAULT_FILE))
    return found


def main() -> None:
    """Run the container, or prepare answers, as `python -m serving` does."""
    fault = {} if sys.argv[1:] else _read_fault()
    if fault.get("kind") == "version":
        os.environ["MODEL_VERSION"] = fault["named"]
    elif fault.get("kind") == "start":
        time.sleep(fault["seconds"])
    elif fault:
        os.environ[_VARIABLE] = json.dumps(fault)
        worker.build = build
    container.main()


if __name__ == "__main__":
    main()
