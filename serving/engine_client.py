"""A worker's way to the engine: questions of the same moment travel together.

One message is under way on a lane at a time. What is asked meanwhile is gathered and goes next, so
batches grow by themselves when the engine is busy, and a lone question leaves at once. When several
were answered together, those who asked will likely ask again together: the next message waits for
as many, at most GATHER_S. A lane does not grow for ever: what would wait longer than MAX_WAIT_S is
refused, and whoever asked can turn to another instance.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from serving.errors import ModelBusy, ModelError, ModelNotReady
from serving.wire import EVENTS, LARGE, SMALL, EngineEnded, Question, Reply

# Requests waiting on one lane: a worker has a thread for each, and some to refuse the others with.
MAX_WAITING = 96
MAX_WAIT_S = 2.0
GATHER_S = 0.002
# A batch of more customers than this travels on the lane of large questions.
SMALL_CUSTOMERS = 16
# How much the newest message counts in the estimate of what a customer costs.
_NEWEST = 0.2


class _Waiting:
    """A question, and the thread that waits for its reply."""

    __slots__ = ("_arrived", "question", "reply")

    def __init__(self, question: Question) -> None:
        self.question = question
        self.reply: Reply | None = None
        self._arrived = threading.Lock()
        self._arrived.acquire()

    def settle(self, reply: Reply | None) -> None:
        self.reply = reply
        self._arrived.release()

    def wait(self) -> Reply | None:
        self._arrived.acquire()
        return self.reply


class Lane:
    """Questions of one kind, in the order of their arrival; safe to use from many threads."""

    def __init__(self, connection: Connection, at_once: int) -> None:
        """Take a connection on which at most `at_once` questions make one message."""
        self._connection = connection
        self._at_once = at_once
        self._lock = threading.Lock()
        self._enough = threading.Condition(self._lock)
        self._gathered: deque[_Waiting] = deque()
        self._under_way: list[_Waiting] = []
        self._awaited = 0
        self._sent_at = 0.0
        self._customer_s = 0.0
        self._customers_waiting = 0
        self._closed = False
        threading.Thread(target=self._receive, name="replies", daemon=True).start()

    def ask(self, question: Question) -> list[bytes]:
        """Return the answers, in the order of the customers.

        Raises ModelError; ModelBusy at once where it would wait too long; ModelNotReady where
        the engine ended.
        """
        waiting = _Waiting(question)
        customers = len(question.customer_ids)
        with self._lock:
            if self._closed:
                raise ModelNotReady("the model's process has ended; the instance is restarting")
            requests = len(self._gathered) + len(self._under_way)
            wait_s = self._customers_waiting * self._customer_s
            if requests >= MAX_WAITING or wait_s > MAX_WAIT_S:
                raise ModelBusy
            self._customers_waiting += customers
            self._gathered.append(waiting)
            if self._awaited:
                if len(self._gathered) >= self._awaited:
                    self._enough.notify()
            elif not self._under_way:
                self._send()
        reply = waiting.wait()
        if reply is None:
            raise ModelNotReady("the model's process has ended; the instance is restarting")
        if isinstance(reply, ModelError):
            raise reply
        return reply

    def _send(self) -> None:
        """Send what was gathered; the lock is held, and nothing is under way."""
        at_once = min(self._at_once, len(self._gathered))
        self._under_way = [self._gathered.popleft() for _ in range(at_once)]
        self._sent_at = time.monotonic()
        try:
            self._connection.send([waiting.question for waiting in self._under_way])
        except OSError:
            self._close()

    def _receive(self) -> None:
        while True:
            try:
                replies = self._connection.recv()
            except (EOFError, OSError):
                with self._lock:
                    self._close()
                return
            with self._lock:
                answered, self._under_way = self._under_way, []
                self._note_cost(answered)
                self._awaited = min(len(answered), self._at_once)
            for waiting, reply in zip(answered, replies, strict=True):
                waiting.settle(reply)
            with self._lock:
                if self._awaited > 1:
                    self._enough.wait_for(lambda: len(self._gathered) >= self._awaited, GATHER_S)
                self._awaited = 0
                if self._gathered:
                    self._send()

    def _note_cost(self, answered: Sequence[_Waiting]) -> None:
        customers = sum(len(waiting.question.customer_ids) for waiting in answered)
        self._customers_waiting -= customers
        cost_s = (time.monotonic() - self._sent_at) / customers
        self._customer_s += _NEWEST * (cost_s - self._customer_s)

    def _close(self) -> None:
        self._closed = True
        for waiting in (*self._under_way, *self._gathered):
            waiting.settle(None)
        self._under_way = []
        self._gathered.clear()


class EngineClient:
    """The engine, as a worker sees it."""

    def __init__(self, address: Path, tell: Callable[[object], None]) -> None:
        """Connect; `tell` is called with each event, in a thread of its own."""
        self._small = Lane(_connected(address, SMALL), MAX_WAITING)
        self._large = Lane(_connected(address, LARGE), 1)
        events = _connected(address, EVENTS)
        threading.Thread(target=_listen, args=(events, tell), name="events", daemon=True).start()

    def ask(self, customer_ids: Sequence[str], k: int) -> list[bytes]:
        """Return the customers' answers; raises as `Lane.ask` does."""
        lane = self._small if len(customer_ids) <= SMALL_CUSTOMERS else self._large
        return lane.ask(Question(customer_ids, k))


def _connected(address: Path, kind: str) -> Connection:
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.connect(str(address))
    connection: Connection = Connection(connected.detach())
    connection.send(kind)
    return connection


def _listen(events: Connection, tell: Callable[[object], None]) -> None:
    while True:
        try:
            event: Any = events.recv()
        except (EOFError, OSError):
            tell(EngineEnded())  # The main process sees it too, and ends.
            return
        tell(event)
