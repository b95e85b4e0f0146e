"""The engine and its clients, through real sockets, with a model written by hand."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Queue
from random import Random

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine import MOST_AT_ONCE, Engine
from serving.engine_client import MAX_WAITING, SMALL_CUSTOMERS, EngineClient
from serving.errors import ModelBusy, ModelError, ModelNotReady
from serving.recommender import Answer
from serving.wire import SMALL, EngineEnded, ModelReady, PreparedReady, Question
from tests.recommenders import Alphabet, alone, ready, rendered, serve
from tests.unit.test_serving_model_slot import first_done

DEADLINE_S = 30.0
ROOT = Path(__file__).parents[2]


class Held(Alphabet):
    """An alphabet that stops at the customer `hold` until it is let go; remembers its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[str]] = []
        self.held, self.release = threading.Event(), threading.Event()

    def answer(self, customer_ids: Sequence[str], k: int) -> Answer:
        self.calls.append(list(customer_ids))
        if "hold" in customer_ids:
            self.held.set()
            assert self.release.wait(DEADLINE_S)
        return super().answer(customer_ids, k)


class Slow(Alphabet):
    """An alphabet for which a question takes a tenth of a second."""

    def answer(self, customer_ids: Sequence[str], k: int) -> Answer:
        time.sleep(0.1)
        return super().answer(customer_ids, k)


@pytest.fixture
def model() -> Held:
    return Held()


@pytest.fixture
def address(tmp_path: Path, model: Held) -> Path:
    """Where an engine with the model listens."""
    serve(model, tmp_path / "engine")
    return tmp_path / "engine"


@pytest.fixture
def client(address: Path) -> EngineClient:
    return EngineClient(address, lambda _: None)


@pytest.fixture
def engine_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """An engine that can be killed."""
    command = [sys.executable, "-m", "tests.recommenders", str(tmp_path / "engine")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        yield process
        process.kill()


def named(count: int, name: str = "C") -> list[str]:
    return [f"{name}{number}" for number in range(count)]


def connect(address: Path, kind: str) -> Connection:
    """Connect as a worker does, and speak for oneself."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.connect(str(address))
    connection: Connection = Connection(connected.detach())
    connection.send(kind)
    return connection


def patiently(client: EngineClient, customer_ids: Sequence[str], k: int) -> list[bytes]:
    """Ask until there is room: on a machine with more to do, an instance may refuse a question."""
    end = time.monotonic() + DEADLINE_S
    while True:
        try:
            return client.ask(customer_ids, k)
        except ModelBusy:
            assert time.monotonic() < end, "there was never room"
            time.sleep(0.01)


@given(
    st.lists(
        st.builds(
            Question,
            st.lists(
                st.sampled_from([*named(9), "nobody", "broken", "bug"]), min_size=1, max_size=4
            )
            | st.integers(1, 2 * MOST_AT_ONCE).map(named),
            st.integers(1, 20),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_questions_of_one_moment_get_what_each_would_get_alone(questions: list[Question]) -> None:
    engine = Engine(Alphabet())
    for question, reply in zip(questions, engine.answer(questions), strict=True):
        expected = alone(engine, question)
        if isinstance(expected, ModelError):
            assert str(reply) == str(expected)
        else:
            assert reply == rendered(Alphabet(), question.customer_ids, question.k)


def test_questions_for_one_k_are_computed_together_up_to_the_limit(model: Held) -> None:
    asked = [Question([customer], 3) for customer in named(MOST_AT_ONCE + 5)]
    Engine(model).answer([*asked, Question(["C1"], 4)])
    assert [len(call) for call in sorted(model.calls, key=len)] == [1, 5, MOST_AT_ONCE]


def test_many_threads_with_questions_of_every_size_get_their_own_answers(address: Path) -> None:
    clients = [EngineClient(address, lambda _: None) for _ in range(2)]
    sizes = [1, 1, 1, 2, SMALL_CUSTOMERS, SMALL_CUSTOMERS + 1, MOST_AT_ONCE + 1, 1_000]

    def ask(thread: int) -> None:
        random, client = Random(thread), clients[thread % 2]
        for number in range(12):
            customers = named(random.choice(sizes), f"C{thread}-{number}-")
            k = random.randint(1, 20)
            assert patiently(client, customers, k) == rendered(Alphabet(), customers, k)

    with ThreadPoolExecutor(24) as pool:
        for asked in [pool.submit(ask, thread) for thread in range(24)]:
            asked.result(DEADLINE_S)


@pytest.mark.parametrize(
    ("customer", "says"), [("broken", "not a finite number"), ("bug", "ZeroDivisionError")]
)
def test_customer_that_the_model_fails_on_fails_alone(
    client: EngineClient, model: Held, customer: str, says: str
) -> None:
    with ThreadPoolExecutor(40) as pool:
        first = pool.submit(client.ask, ["hold"], 3)
        assert model.held.wait(DEADLINE_S)
        # What is asked while the engine computes is computed together.
        good = [pool.submit(patiently, client, [id_, "C0"], 3) for id_ in named(30)]
        bad = [pool.submit(patiently, client, ["C1", customer], 3) for _ in range(3)]
        model.release.set()
        assert first.result(DEADLINE_S) == rendered(Alphabet(), ["hold"], 3)
        for id_, asked in zip(named(30), good, strict=True):
            assert asked.result(DEADLINE_S) == rendered(Alphabet(), [id_, "C0"], 3)
        for asked in bad:
            with pytest.raises(ModelError, match=says):
                asked.result(DEADLINE_S)


def test_large_question_that_the_model_fails_on_fails_alone(client: EngineClient) -> None:
    with ThreadPoolExecutor(2) as pool:
        bad = pool.submit(client.ask, [*named(900), "broken"], 3)
        good = pool.submit(client.ask, named(900), 3)
        with pytest.raises(ModelError, match="not a finite number"):
            bad.result(DEADLINE_S)
        assert good.result(DEADLINE_S) == rendered(Alphabet(), named(900), 3)


def test_large_question_under_way_holds_up_nobody_else(address: Path, model: Held) -> None:
    clients = [EngineClient(address, lambda _: None) for _ in range(2)]
    customers = ["hold", *named(2 * MOST_AT_ONCE)]
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(clients[0].ask, customers, 3)
        assert model.held.wait(DEADLINE_S)
        assert clients[0].ask(["C1"], 3) == rendered(Alphabet(), ["C1"], 3)
        assert clients[1].ask(["C2"], 4) == rendered(Alphabet(), ["C2"], 4)
        assert clients[1].ask(named(900), 3) == rendered(Alphabet(), named(900), 3)
        model.release.set()
        assert held.result(DEADLINE_S) == rendered(Alphabet(), customers, 3)


def test_large_question_is_computed_in_slices(client: EngineClient, model: Held) -> None:
    client.ask(named(2 * MOST_AT_ONCE + 1), 3)
    assert [len(call) for call in model.calls] == [MOST_AT_ONCE, MOST_AT_ONCE, 1]


def test_more_than_may_wait_are_refused_at_once_and_room_comes_back(
    client: EngineClient, model: Held
) -> None:
    too_many = 7
    with ThreadPoolExecutor(MAX_WAITING + too_many + 1) as pool:
        asked = [pool.submit(client.ask, ["hold"], 3)]
        assert model.held.wait(DEADLINE_S)
        asked += [pool.submit(client.ask, ["C1"], 3) for _ in range(MAX_WAITING - 1 + too_many)]
        refused = first_done(asked, too_many)
        assert all(isinstance(one.exception(), ModelBusy) for one in refused)
        model.release.set()
        assert all(len(one.result(DEADLINE_S)) == 1 for one in asked if one not in refused)
    assert client.ask(["C1"], 3) == rendered(Alphabet(), ["C1"], 3)


def test_large_questions_that_would_wait_too_long_are_refused_and_small_ones_are_not(
    tmp_path: Path, model: Held
) -> None:
    class SlowAndHeld(Held, Slow):
        """Both."""

    model = SlowAndHeld()
    serve(model, tmp_path / "slow")
    client = EngineClient(tmp_path / "slow", lambda _: None)
    client.ask(named(SMALL_CUSTOMERS + 1), 3)  # Now it is known what a customer costs.
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(client.ask, ["hold", *named(3_000)], 3)
        assert model.held.wait(DEADLINE_S)
        with pytest.raises(ModelBusy):
            client.ask(named(1_000), 3)
        model.release.set()
        assert client.ask(["C1"], 3) == rendered(Alphabet(), ["C1"], 3)
        assert len(large.result(DEADLINE_S)) == 3_001
    assert len(client.ask(named(100), 3)) == 100


def test_engine_killed_everybody_is_told_and_nobody_hangs(
    engine_process: subprocess.Popen[str], tmp_path: Path
) -> None:
    client = EngineClient(tmp_path / "engine", lambda _: None)
    assert client.ask(["C1"], 3) == rendered(Alphabet(), ["C1"], 3)
    answered, sizes = threading.Semaphore(0), [1, 1, 300]

    def ask_until_refused(thread: int) -> None:
        customers = named(sizes[thread % 3])
        while True:
            patiently(client, customers, 3)
            answered.release()

    with ThreadPoolExecutor(30) as pool:
        asked = [pool.submit(ask_until_refused, thread) for thread in range(30)]
        for _ in range(60):
            assert answered.acquire(timeout=DEADLINE_S)
        engine_process.kill()
        for one in asked:
            with pytest.raises(ModelNotReady, match="has ended"):
                one.result(DEADLINE_S)
    for customers in (named(1), named(300)):
        with pytest.raises(ModelNotReady, match="has ended"):
            client.ask(customers, 3)


def test_engine_stopped_in_the_middle_of_a_question_everybody_is_told(
    engine_process: subprocess.Popen[str], tmp_path: Path
) -> None:
    told: Queue[object] = Queue()
    client = EngineClient(tmp_path / "engine", told.put)
    client.ask(["C1"], 3)
    client.ask(named(100), 3)
    psutil.Process(engine_process.pid).suspend()  # What it is sent waits in its sockets.
    with ThreadPoolExecutor(MAX_WAITING + 5) as pool:
        asked = [pool.submit(client.ask, named(1 + 99 * (n % 2)), 3) for n in range(MAX_WAITING)]
        engine_process.kill()
        for one in asked:
            assert isinstance(one.exception(DEADLINE_S), ModelNotReady | ModelBusy)
    assert told.get(timeout=DEADLINE_S) == EngineEnded()


def test_worker_that_went_away_disturbs_nobody(address: Path, model: Held) -> None:
    gone, stays = connect(address, SMALL), EngineClient(address, lambda _: None)
    gone.send([Question(["hold"], 3)])
    assert model.held.wait(DEADLINE_S)
    gone.close()
    model.release.set()
    assert stays.ask(["C1"], 3) == rendered(Alphabet(), ["C1"], 3)


def test_worker_hears_what_was_told_before_and_after_it_came(tmp_path: Path, model: Held) -> None:
    workers = serve(model, tmp_path / "engine")
    prepared = PreparedReady(["one.table"], 20)
    workers.tell(prepared)
    told: Queue[object] = Queue()
    EngineClient(tmp_path / "engine", told.put)
    assert told.get(timeout=DEADLINE_S) == prepared
    workers.tell(ready(model))
    assert told.get(timeout=DEADLINE_S) == ModelReady(20, 7, "exact")
    late: Queue[object] = Queue()
    EngineClient(tmp_path / "engine", late.put)
    assert [late.get(timeout=DEADLINE_S) for _ in range(2)] == [prepared, ready(model)]
