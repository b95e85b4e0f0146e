"""Who is compared, and how each of them is started, asked for the first time, and stopped."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from benchmarks import tree
from benchmarks.cloud import Revision, free_port
from benchmarks.models import PROBE_TOP_K
from localcloud.ports import HOST
from serving.cpus import cpus_given
from turnout.demo import ROOT

START_LIMIT_S, STOP_LIMIT_S, POLL_S = 600.0, 30.0, 0.005
SETTLE_LIMIT_S, SETTLE_LOOK_S, BUSY = 120.0, 0.1, 0.3
FLASK, LOOP, LIT = "flask", "loop", "litserve"
TENSORFLOW, PREPARED = "turnout-tensorflow", "turnout-prepared"
EMPTY, SERVER = "empty-flask", "empty-server"


class NotServing(RuntimeError):
    """A contestant did not start, or answers wrongly; the message ends with its log."""


@dataclass(frozen=True)
class Target:
    """One model in the two forms that contestants take it, and what it must answer.

    `probes` maps customers to their best products; `revisions` maps the contestants that run
    from a bucket to theirs; `customers` is the file of ids that are asked for.
    """

    folder: Path
    probes: Mapping[str, Sequence[str]]
    customers: Path
    revisions: Mapping[str, Revision] = field(default_factory=dict)


@dataclass(frozen=True)
class Contestant:
    """A way to serve, as a command for the given interpreter.

    `settings` is its environment, `variants` other ones worth trying; `from_bucket` runs from a
    revision's environment instead of a folder, and is ready when /health says so; a `constant`
    one has no model. `slow` ones are asked for few customers at a time.
    """

    name: str
    title: str
    arguments: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    variants: tuple[Mapping[str, str], ...] = ()
    from_bucket: bool = False
    constant: bool = False
    slow: bool = False
    batch_path: str = "/recommend-batch"

    def with_settings(self, settings: Mapping[str, str]) -> Contestant:
        """Return the same one with other settings."""
        return replace(self, settings=settings)


def contestants(bench_python: str) -> list[Contestant]:
    """Return all of them; the first is the one that ratios are to."""
    cpus = cpus_given()
    threads = [{"THREADS": str(count)} for count in (2 * cpus + 1, 4 * cpus, 16, 32)]
    lit = [
        {"LIT_BATCH": str(batch), "LIT_WAIT_S": wait, "LIT_SERVERS": str(servers), **queue}
        for batch, wait, servers, queue in (
            (64, "0.005", 1, {"LIT_FAST_QUEUE": "0"}),
            (32, "0.002", 1, {"LIT_FAST_QUEUE": "0"}),
            (64, "0.005", 1, {"LIT_FAST_QUEUE": "1"}),
            (64, "0.005", 2, {"LIT_FAST_QUEUE": "0"}),
        )
    ]
    project = sys.executable
    gunicorn = "exec {} -m gunicorn --worker-class gthread --workers 1 --threads $THREADS"
    gunicorn += " --timeout 0 --no-control-socket --log-level warning"
    gunicorn += " --bind 127.0.0.1:$PORT 'benchmarks.peers.plain_flask:create_app()'"
    serving = (project, "-m", "serving")
    empty = (project, "-m", "benchmarks.peers.empty")
    return [
        Contestant(
            FLASK,
            "plain Flask, gunicorn threads",
            ("sh", "-c", gunicorn.format(project)),
            threads[0],
            tuple(threads),
        ),
        Contestant(
            LOOP,
            "per-customer loop, FastAPI",
            (bench_python, "-m", "benchmarks.peers.loop"),
            slow=True,
        ),
        Contestant(
            LIT,
            "LitServe, batching",
            (bench_python, "-m", "benchmarks.peers.lit"),
            lit[0],
            tuple(lit),
            batch_path="/recommend",
        ),
        Contestant(TENSORFLOW, "Turnout, TensorFlow path", serving, from_bucket=True),
        Contestant(PREPARED, "Turnout, prepared answers", serving, from_bucket=True),
        Contestant(EMPTY, "empty Flask endpoint", (*empty, "flask"), constant=True),
        Contestant(SERVER, "the same server, no Flask", (*empty, "bare"), constant=True),
    ]


class Server:
    """A contestant that runs; what it prints goes to `log`."""

    def __init__(self, contestant: Contestant, target: Target, key: str, logs: Path) -> None:
        self.contestant = contestant
        self._target, self._key = target, key
        self.port = free_port()
        logs.mkdir(parents=True, exist_ok=True)
        self._log: IO[bytes] = (logs / f"{contestant.name}.log").open("ab")
        self._last_words = ""
        self._begun = time.monotonic()
        self._process = subprocess.Popen(
            contestant.arguments,
            cwd=ROOT,
            env={**os.environ, **self._environment()},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _environment(self) -> dict[str, str]:
        own = {
            "PORT": str(self.port),
            "MODEL_FOLDER": str(self._target.folder),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "CUDA_VISIBLE_DEVICES": "-1",
            **self.contestant.settings,
        }
        if self.contestant.from_bucket:
            own.update(self._target.revisions[self.contestant.name].environment)
        return own

    @property
    def pid(self) -> int:
        """The root of its processes."""
        return self._process.pid

    def url(self, batch: bool = False) -> str:
        """Return where recommendations are asked for."""
        path = self.contestant.batch_path if batch else "/recommend"
        return f"http://{HOST}:{self.port}{path}"

    def until_first_answer(self) -> float:
        """Return how long it took from the start of the process to a right answer, in s."""
        customer, products = next(iter(self._target.probes.items()))
        asked = {"customer_id": customer, "top_k": PROBE_TOP_K}
        while True:
            answer = self._ask("POST", "/recommend", asked)
            if answer is not None:
                if not self.contestant.constant:
                    found = [one["product_id"] for one in answer["recommendations"]]
                    if found != list(products):
                        raise NotServing(f"{self.contestant.name}: {customer} got {found}")
                return time.monotonic() - self._begun
            self._check_alive()
            time.sleep(POLL_S)

    def until_ready(self) -> float:
        """Return how long it took until everything is loaded, in s."""
        if self.contestant.from_bucket:
            while (self._ask("GET", "/health") or {}).get("status") != "healthy":
                self._check_alive()
                time.sleep(POLL_S)
        else:
            self.until_first_answer()
        return time.monotonic() - self._begun

    def answer_batch(self, customers: Sequence[str], k: int) -> list[dict[str, Any]]:
        """Return the results for up to 1,000 customers; NotServing."""
        asked = {"customer_ids": list(customers), "top_k": k}
        answer = self._ask("POST", self.contestant.batch_path, asked)
        if answer is None:
            raise NotServing(f"{self.contestant.name} refused a batch: {self._tail()}")
        results: list[dict[str, Any]] = answer["results"]
        return results

    def settle(self) -> None:
        """Wait until it has finished what was under way when the load stopped; NotServing."""
        until = time.monotonic() + SETTLE_LIMIT_S
        while self.busy_when_idle(SETTLE_LOOK_S) > BUSY:
            if time.monotonic() > until:
                raise NotServing(f"{self.contestant.name} goes on computing: {self._tail()}")

    def busy_when_idle(self, seconds: float) -> float:
        """Return the share of one CPU that it uses when nobody asks."""
        before = tree.cpu_s(self.pid)
        time.sleep(seconds)
        return (tree.cpu_s(self.pid) - before) / seconds

    def memory_mb(self) -> float:
        """Return its memory, see tree.memory_mb."""
        return tree.memory_mb(self.pid)

    def stop(self) -> None:
        """End it and every process it started."""
        left = tree.processes(self.pid)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for process in left[1:]:
            # Some leave their workers behind.
            if process.is_running():
                process.kill()
        self._log.close()

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any] | None:
        """Return the JSON of a 200, None for anything else."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=120)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, body and json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        if answer.status == 200:
            return dict(json.loads(content))
        self._last_words = f"{answer.status} {content[:500].decode(errors='replace')}\n"
        return None

    def _check_alive(self) -> None:
        if self._process.poll() is not None:
            raise NotServing(f"{self.contestant.name} ended by itself: {self._tail()}")
        if time.monotonic() - self._begun > START_LIMIT_S:
            raise NotServing(f"{self.contestant.name} does not answer: {self._tail()}")

    def _tail(self) -> str:
        return self._last_words + Path(self._log.name).read_text(errors="replace")[-2000:]
