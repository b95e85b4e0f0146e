"""`python -m serving.engine`: the process that holds TensorFlow, and answers the workers.

It fetches the prepared answers first, says so, then loads the model behind them. Questions that
arrive while it computes are taken together next: one matrix product answers them all, and the
more there are the cheaper each becomes. Nobody waits for others to arrive.

The workers connect to a socket that is the main process's, named as file descriptor; a connection
begins with a word: `events`, on which this process tells what is ready; `small` and `large`, on
which questions come. Large ones have a thread for each worker, so that they hold up nobody else.
"""

from __future__ import annotations

import gc
import logging
import logging.config
import os
import selectors
import shutil
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

from serving.cpus import cpus_given
from serving.errors import InvalidConfiguration, LoadError, ModelError
from serving.logs import log, logging_config
from serving.recommender import Recommender
from serving.rendering import Renderer
from serving.settings import Settings, read_settings
from serving.timings import Timings
from serving.wire import EVENTS, SMALL, ModelReady, PreparedReady, Question, Reply

# Customers of one computation. More would not be cheaper each, and make the others wait.
MOST_AT_ONCE = 256
# How long questions wait for those of other lanes, as part of the time that the last answers took.
PATIENCE = 0.5
# With fewer products, another sweep of them is cheaper than waiting.
PATIENT_FROM_PRODUCTS = 50_000
TELL_WITHIN_S = 3.0


def main() -> None:
    """Serve the workers until the main process ends; exit code 1 when the model cannot be."""
    gc.disable()  # Until the model is loaded: nothing of what comes before is let go again.
    listener, folder = socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])
    logging.config.dictConfig(logging_config())
    _spawn("follow-parent", partial(_end_with_parent, folder))
    settings, timings = read_settings(os.environ), Timings()
    workers = Workers(listener)
    try:
        model = _load(settings, folder, workers, timings)
    except BaseException as error:
        expected = isinstance(error, LoadError)
        log(
            "ERROR",
            "model failed to load",
            exc_info=not expected,
            code=error.code if isinstance(error, LoadError) else "internal_error",
            reason=str(error) if expected else f"{type(error).__name__}: {error}",
            model_id=settings.model_id,
            model_version=settings.model_version,
            **timings.parts,
        )
        logging.shutdown()
        os._exit(1)
    log(
        "INFO",
        "model loaded",
        model_id=settings.model_id,
        model_version=settings.model_version,
        products=model.products,
        retrieval=model.kind,
        **timings.parts,
    )
    workers.tell(ModelReady(model.products, model.customers, model.kind))
    Engine(model).serve(workers)


def _load(settings: Settings, folder: Path, workers: Workers, timings: Timings) -> Recommender:
    from serving.bucket import Bucket
    from serving.loading import load_model
    from serving.prepared import fetch_prepared
    from serving.table import Table, Tables

    assert settings.artifact is not None
    source = Bucket(settings.artifact.bucket, settings.artifact.prefix)
    index = None
    if settings.retrieval == "approximate" and not settings.prepared_digest:
        raise InvalidConfiguration(
            "RETRIEVAL is approximate and PREPARED_DIGEST is not set; its index is prepared"
        )
    if settings.prepared_digest:
        prepared = timings.measure("prepared", lambda: fetch_prepared(settings, source, folder))
        index = folder / prepared.index if prepared.index else None
        if tables := [folder / table for table in prepared.tables]:
            Tables(map(Table, tables), settings.artifact.digest)  # Refused here, not by a worker.
            workers.tell(PreparedReady(list(map(str, tables)), prepared.products))
            # Importing TensorFlow holds the interpreter for a second: first every worker is told.
            workers.wait_for(cpus_given(), TELL_WITHIN_S)
    # A folder of its own: an artifact may have any names in it.
    files = folder / "artifact"
    model = load_model(settings, source, files, cpus_given(), timings, index)
    # On Cloud Run files are memory; the loaded model needs none of its own.
    shutil.rmtree(files, ignore_errors=True)
    return model


class Workers:
    """The connections of the worker processes, taken in by a thread of its own."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._lock = threading.Condition()
        self._told: list[object] = []
        self._events: list[Connection] = []
        self._new: deque[tuple[str, Connection]] = deque()
        self._bell, self.bell = (Connection(end.detach()) for end in socket.socketpair())
        _spawn("accept", self._accept)

    def tell(self, event: object) -> None:
        """Send an event to every worker, also to those that connect later."""
        with self._lock:
            self._told.append(event)
            for connection in self._events:
                connection.send(event)

    def wait_for(self, workers: int, timeout_s: float) -> None:
        """Wait until so many workers have been told what there is, or the time is over."""
        with self._lock:
            self._lock.wait_for(lambda: len(self._events) >= workers, timeout_s)

    def new(self) -> list[tuple[str, Connection]]:
        """Return the lanes that connected since the last call; `bell` is readable then."""
        while self.bell.poll():
            self.bell.recv_bytes()
        return [self._new.popleft() for _ in range(len(self._new))]

    def _accept(self) -> None:
        while True:
            accepted, _ = self._listener.accept()
            connection: Connection = Connection(accepted.detach())
            kind = connection.recv()
            if kind == EVENTS:
                with self._lock:
                    for event in self._told:
                        connection.send(event)
                    self._events.append(connection)
                    self._lock.notify_all()
            else:
                self._new.append((kind, connection))
                self._bell.send_bytes(b"!")


class Engine:
    """Answers questions: all small ones of a moment together, large ones slice by slice."""

    def __init__(self, model: Recommender) -> None:
        self._model = model
        self._renderer = Renderer()
        self._lanes = selectors.DefaultSelector()

    def serve(self, workers: Workers) -> None:
        """Answer for ever.

        Lanes that were answered just now will likely ask again just now: for a part of the time
        that an answer takes, whoever is earlier waits for the others, and one sweep of the
        catalogue does for all.
        """
        self._lanes.register(workers.bell, selectors.EVENT_READ)
        patience = PATIENCE if self._model.products >= PATIENT_FROM_PRODUCTS else 0.0
        answered: set[Connection] = set()
        waits_until = 0.0
        while True:
            asked = self._receive(workers)
            while answered.difference(asked) and (left_s := waits_until - time.monotonic()) > 0:
                asked |= self._receive(workers, left_s)
            if asked:
                began = time.monotonic()
                self._answer_small(list(asked.items()))
                answered, ended = set(asked), time.monotonic()
                waits_until = ended + patience * (ended - began)

    def _receive(
        self, workers: Workers, timeout_s: float | None = None
    ) -> dict[Connection, list[Question]]:
        """Wait until a lane asks or is new, or the time is over; return what they ask."""
        asked = {}
        for key, _ in self._lanes.select(timeout_s):
            if key.fileobj is workers.bell:
                for kind, lane in workers.new():
                    if kind == SMALL:
                        self._lanes.register(lane, selectors.EVENT_READ)
                    else:
                        _spawn("large", partial(self._serve_large, lane))
                continue
            lane = cast(Connection, key.fileobj)
            try:
                asked[lane] = lane.recv()
            except (EOFError, OSError):
                self._lanes.unregister(lane)  # The worker is gone.
        return asked

    def _answer_small(self, asked: Sequence[tuple[Connection, list[Question]]]) -> None:
        replies = iter(self.answer([question for _, some in asked for question in some]))
        for lane, questions in asked:
            _send(lane, [next(replies) for _ in questions])

    def _serve_large(self, lane: Connection) -> None:
        """Answer one worker's large questions; the others' and the small ones go on meanwhile."""
        while True:
            try:
                questions: list[Question] = lane.recv()
            except (EOFError, OSError):
                return  # The worker is gone.
            _send(lane, [self._answer_large(question) for question in questions])

    def _answer_large(self, question: Question) -> Reply:
        answers: list[bytes] = []
        for begin in range(0, len(question.customer_ids), MOST_AT_ONCE):
            part = question.customer_ids[begin : begin + MOST_AT_ONCE]
            try:
                answers += self._compute(part, question.k)
            except ModelError as error:
                return error
        return answers

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Return each question's reply, computed together with all that ask for the same k."""
        replies: dict[int, Reply] = {}
        for k in {question.k for question in questions}:
            asked = [number for number, question in enumerate(questions) if question.k == k]
            for group in _groups(asked, questions):
                together = [id_ for number in group for id_ in questions[number].customer_ids]
                try:
                    answers = iter(self._compute(together, k))
                    for number in group:
                        replies[number] = [next(answers) for _ in questions[number].customer_ids]
                except ModelError:
                    # Whose fault it was is found by asking for each alone.
                    for number in group:
                        replies[number] = self._alone(questions[number])
        return [replies[number] for number in range(len(questions))]

    def _alone(self, question: Question) -> Reply:
        try:
            return self._compute(question.customer_ids, question.k)
        except ModelError as error:
            return error

    def _compute(self, customer_ids: Sequence[str], k: int) -> list[bytes]:
        try:
            return self._renderer.answers(customer_ids, self._model.answer(customer_ids, k))
        except ModelError:
            raise
        except Exception as error:  # The boundary of the process: the others go on.
            log("ERROR", "answering failed", exc_info=True)
            raise ModelError(f"the model failed: {type(error).__name__}") from error


def _groups(asked: Sequence[int], questions: Sequence[Question]) -> list[list[int]]:
    """Return the questions in groups of at most MOST_AT_ONCE customers, or of one question."""
    groups: list[list[int]] = []
    size = MOST_AT_ONCE
    for number in asked:
        customers = len(questions[number].customer_ids)
        if size + customers > MOST_AT_ONCE:
            groups.append([])
            size = 0
        groups[-1].append(number)
        size += customers
    return groups


def _send(lane: Connection, replies: list[Reply]) -> None:
    try:
        lane.send(replies)
    except OSError:
        return  # The worker is gone; whoever waited for this went with it.


def _spawn(name: str, work: Callable[[], None]) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()


def _end_with_parent(folder: Path) -> None:
    """End when the main process does: it holds the other end of standard input."""
    sys.stdin.buffer.read()
    shutil.rmtree(folder, ignore_errors=True)  # Whoever was killed could not do that.
    os._exit(0)


if __name__ == "__main__":
    main()
