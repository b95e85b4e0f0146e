"""The very deploy_model.yaml that is deployed, run against functions that answer as they are told.

The order of its calls, its waits in a time that passes at once, what it tries again and what
not, and that every failure at every step ends in one abort.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.cloud.workflows import executions_v1

from functions.abort_deployment import reason_of
from functions.prepare_model import ASKED_AGAIN_AFTER_S, ENDED_WITHIN_S, POLLED_FOR_S
from localcloud.ports import HOST
from localcloud.ports import Ports as Listeners
from shared.config import WORKFLOW
from shared.domain.bake import POLLS_QUICK, POLLS_SLOW, SLOWEST_POLL_S
from shared.errors import ModelRefused, PipelineError, PreparationFailed
from tests.workflow.running import EMAIL, LOCATION, Answer, Cloud, State, listening

SOURCE = Path(__file__).parents[2] / "workflows" / "deploy_model.yaml"
NAME = "movies-47-auto"
IMMEDIATE = [{"percent": 100, "bake_s": 0}]
GRADUAL = [
    {"percent": 10, "bake_s": 1800},
    {"percent": 50, "bake_s": 1800},
    {"percent": 100, "bake_s": 0},
]
BEFORE_TRAFFIC = [
    "claim_deployment",
    "copy_artifacts",
    "prepare_model",
    "create_revision",
    "check_health",
]
GO_ON = {"answer": "go on", "wait_s": 0}
ALL_AT_ONCE = [*BEFORE_TRAFFIC, "shift_traffic", "finish_deployment"]
STEPS_OF_AN_EXECUTION = 100_000
STEP_DELAYS_S = [1, 2, 4, 8, 16, 30]
ABORT_DELAYS_S = [1, 2, 4, 8, 16, 32, *[60] * 18]
PROBLEM = {"title": "It failed", "status": 422, "code": "refused", "detail": "exit code 3"}


class Functions:
    """What each function answers in turn (the last answer for ever), and what it was asked."""

    def __init__(self, stages: list[dict[str, int]]) -> None:
        self.answers: dict[str, list[Answer]] = {
            "claim_deployment": [Answer(body={"claimed": True, "stages": stages})],
            "prepare_model": [Answer(body=GO_ON)],
            "judge_canary": [Answer(body={"answer": "advance", "wait_s": 0})],
        }
        self.asked: list[tuple[str, Mapping[str, Any], Mapping[str, str]]] = []

    def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        name = path.removeprefix("/")
        self.asked.append((name, json.loads(body), headers))
        turns = self.answers.get(name, [Answer(body={})])
        return turns.pop(0) if len(turns) > 1 else turns[0]

    @property
    def calls(self) -> list[str]:
        """The functions called, in order."""
        return [name for name, _, _ in self.asked]

    def bodies(self, function: str) -> list[Mapping[str, Any]]:
        """What a function was sent, each time."""
        return [body for name, body, _ in self.asked if name == function]


class Run:
    """One execution that has ended."""

    def __init__(self, cloud: Cloud, functions: Functions) -> None:
        self.functions = functions
        slept: list[float] = cloud.clock.sleeps  # type: ignore[attr-defined]
        slept.clear()
        self.execution = cloud.finished(
            cloud.client.create_execution(
                parent=f"{LOCATION}/workflows/{WORKFLOW}",
                execution=executions_v1.Execution(argument=json.dumps({"deployment_id": NAME})),
            )
        )
        self.sleeps = list(slept)
        self.steps = len(cloud.steps(self.execution))
        self.succeeded = self.execution.state == State.SUCCEEDED
        self.error: Any = json.loads(self.execution.error.payload or "null")

    @property
    def calls(self) -> list[str]:
        return self.functions.calls


Start = Callable[..., Run]


@contextmanager
def deployed(folder: Path, url: str) -> Iterator[Cloud]:
    """Run Workflows with the project's own source; `url` is where the functions are."""
    sources = {WORKFLOW: SOURCE.read_text()}
    with Cloud(folder, sources, environment={"FUNCTIONS_URL": url}) as cloud:
        yield cloud


class Stand:
    """Workflows and the listener of the functions, used by one run after the other."""

    def __init__(self) -> None:
        self.functions = Functions(IMMEDIATE)
        self.url = ""

    def answer(self, *request: Any) -> Answer:
        return self.functions.answer(*request)


@pytest.fixture(scope="module")
def stand() -> Stand:
    return Stand()


@pytest.fixture(scope="module")
def cloud(stand: Stand, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with listening(stand.answer) as listener:
        stand.url = listener.url
        with deployed(tmp_path_factory.mktemp("workflows"), listener.url) as running:
            yield running


@pytest.fixture
def start(cloud: Cloud, stand: Stand) -> Start:
    """Give a function that runs one deployment to its end."""

    def run(stages: list[dict[str, int]] = IMMEDIATE, **answers: list[Answer]) -> Run:
        stand.functions = Functions(stages)
        stand.functions.answers.update(answers)
        return Run(cloud, stand.functions)

    return run


def problem(status: int) -> Answer:
    """An error of a function, as its entry point encodes it."""
    return Answer(status, {**PROBLEM, "status": status}, "application/problem+json")


# the way forward


def test_immediate_rollout_calls_each_function_once_in_order_and_never_waits(
    start: Start,
) -> None:
    run = start()
    assert run.succeeded, run.error
    assert json.loads(run.execution.result) == f"{NAME} is active"
    assert run.calls == ALL_AT_ONCE
    assert run.sleeps == []


def test_every_call_names_deployment_and_execution_and_nothing_unknown(start: Start) -> None:
    run = start(GRADUAL)
    for name, body, _ in run.functions.asked:
        wanted = {"deployment_id": NAME, "execution": run.execution.name}
        if name == "shift_traffic":
            wanted["percent"] = body["percent"]
        assert body == wanted


def test_every_call_carries_a_token_for_the_function_that_it_calls(
    start: Start, cloud: Cloud, stand: Stand
) -> None:
    run = start()
    for name, _, headers in run.functions.asked:
        token = headers["authorization"].removeprefix("Bearer ")
        claims = cloud.identity.verify(token, f"{stand.url}/{name}")
        assert claims["email"] == EMAIL


def test_gradual_rollout_of_an_hour_bakes_below_100_in_no_time(start: Start) -> None:
    wait = Answer(body={"answer": "wait", "wait_s": 300})
    advance = Answer(body={"answer": "advance", "wait_s": 0})
    run = start(GRADUAL, judge_canary=[*[wait] * 6, advance, *[wait] * 6, advance])
    assert run.succeeded, run.error
    assert run.calls == [
        *BEFORE_TRAFFIC,
        "shift_traffic",
        *["judge_canary"] * 7,
        "shift_traffic",
        *["judge_canary"] * 7,
        "shift_traffic",
        "finish_deployment",
    ]
    assert [body["percent"] for body in run.functions.bodies("shift_traffic")] == [10, 50, 100]
    assert run.sleeps == [300] * 12
    assert sum(run.sleeps) == 3600


def test_bake_waits_exactly_as_long_as_the_function_says(start: Start) -> None:
    waits = [Answer(body={"answer": "wait", "wait_s": seconds}) for seconds in (3.6, 0.25)]
    advance = Answer(body={"answer": "advance", "wait_s": 0})
    run = start(GRADUAL, judge_canary=[*waits, advance])
    assert run.succeeded, run.error
    assert run.sleeps == [3.6, 0.25]


def test_longest_bake_stays_within_the_steps_of_an_execution(start: Start) -> None:
    wait = Answer(body={"answer": "wait", "wait_s": 300})
    advance = Answer(body={"answer": "advance", "wait_s": 0})
    run = start(GRADUAL[1:], judge_canary=[*[wait] * 60, advance])
    assert run.succeeded, run.error
    # Bakes and all that may follow them, as tests/unit/test_bake.py adds it up, and a pause.
    a_poll = run.steps / run.calls.count("judge_canary")
    polls = 2.1 * POLLS_QUICK + POLLS_SLOW + 10 * 24 * 3600 / SLOWEST_POLL_S
    assert a_poll * polls < STEPS_OF_AN_EXECUTION


def test_hold_is_asked_about_again_until_somebody_approves(start: Start) -> None:
    hold = Answer(body={"answer": "hold", "wait_s": 300, "why": "waits for approval"})
    advance = Answer(body={"answer": "advance", "wait_s": 0})
    run = start(GRADUAL, judge_canary=[hold, hold, advance])
    assert run.succeeded, run.error
    assert run.sleeps == [300, 300]
    assert run.calls.count("shift_traffic") == 3


def test_stage_without_a_bake_is_judged_too(start: Start) -> None:
    run = start([{"percent": 10, "bake_s": 0}, {"percent": 100, "bake_s": 0}])
    assert run.succeeded, run.error
    assert run.calls[-4:] == ["shift_traffic", "judge_canary", "shift_traffic", "finish_deployment"]


@pytest.mark.parametrize("before", [[], ["wait"], ["hold", "hold"]], ids=len)
def test_abort_of_the_judge_ends_in_one_abort_with_its_reason(
    start: Start, before: list[str]
) -> None:
    why = "canary at 10 %: 45 of 900 requests failed (5.0 %)"
    answers = [Answer(body={"answer": one, "wait_s": 2, "why": "soon"}) for one in before]
    abort = Answer(body={"answer": "abort", "wait_s": 0, "why": why})
    run = start(GRADUAL, judge_canary=[*answers, abort])
    assert run.execution.state == State.FAILED
    assert run.calls[-2:] == ["judge_canary", "abort_deployment"]
    assert run.calls.count("shift_traffic") == 1
    assert run.sleeps == [2] * len(before)
    [body] = run.functions.bodies("abort_deployment")
    assert reason_of(body["error"]) == why


def test_preparation_is_asked_again_after_each_wait_until_it_says_go_on(start: Start) -> None:
    waits = [Answer(body={"answer": "wait", "wait_s": seconds}) for seconds in (5, 5, 0.5)]
    run = start(prepare_model=[*waits, Answer(body=GO_ON)])
    assert run.succeeded, run.error
    assert run.calls == [
        *BEFORE_TRAFFIC[:2],
        *["prepare_model"] * 4,
        *ALL_AT_ONCE[3:],
    ]
    assert run.sleeps == [5, 5, 0.5]
    assert len({json.dumps(body) for body in run.functions.bodies("prepare_model")}) == 1


def test_longest_preparation_stays_within_the_steps_of_an_execution(start: Start) -> None:
    wait = Answer(body={"answer": "wait", "wait_s": ASKED_AGAIN_AFTER_S})
    run = start(prepare_model=[*[wait] * 60, Answer(body=GO_ON)])
    assert run.succeeded, run.error
    a_poll = run.steps / run.calls.count("prepare_model")
    polls = ENDED_WITHIN_S / (POLLED_FOR_S + ASKED_AGAIN_AFTER_S)
    assert a_poll * polls < STEPS_OF_AN_EXECUTION / 10


@pytest.mark.parametrize("waits", [0, 1, 3])
@pytest.mark.parametrize("error", [ModelRefused("no query_model"), PreparationFailed("e", "OOM")])
def test_model_that_is_not_prepared_is_aborted_with_the_reason_before_any_revision(
    start: Start, error: PipelineError, waits: int
) -> None:
    wait = Answer(body={"answer": "wait", "wait_s": 5})
    said = error.problem()
    refusal = Answer(said["status"], said, "application/problem+json")
    run = start(prepare_model=[*[wait] * waits, refusal])
    assert run.execution.state == State.FAILED
    assert run.calls == [
        *BEFORE_TRAFFIC[:2],
        *["prepare_model"] * (waits + 1),
        "abort_deployment",
    ]
    [body] = run.functions.bodies("abort_deployment")
    assert reason_of(body["error"]) == str(error)


def test_preparation_whose_answer_cannot_be_read_is_aborted(start: Start) -> None:
    run = start(prepare_model=[Answer(body={"surprise": 1})])
    assert not run.succeeded
    assert run.calls[-2:] == ["prepare_model", "abort_deployment"]


def test_execution_that_does_not_get_the_deployment_ends_without_touching_it(
    start: Start,
) -> None:
    run = start(claim_deployment=[Answer(body={"claimed": False, "stages": IMMEDIATE})])
    assert run.succeeded, run.error
    assert "belongs to another execution" in json.loads(run.execution.result)
    assert run.calls == ["claim_deployment"]


# what is tried again


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, None])
@pytest.mark.parametrize("function", ALL_AT_ONCE)
def test_passing_fault_is_tried_again_with_growing_pauses(
    start: Start, function: str, status: int | None
) -> None:
    good = {
        "claim_deployment": Answer(body={"claimed": True, "stages": IMMEDIATE}),
        "prepare_model": Answer(body=GO_ON),
    }
    fault = problem(status) if status else Answer(None)
    run = start(**{function: [fault, fault, fault, good.get(function, Answer(body={}))]})
    assert run.succeeded, run.error
    assert run.calls.count(function) == 4
    assert "abort_deployment" not in run.calls
    assert run.sleeps == STEP_DELAYS_S[:3]
    assert len({json.dumps(body) for body in run.functions.bodies(function)}) == 1


@pytest.mark.parametrize("function", [*ALL_AT_ONCE, "judge_canary"])
def test_fault_that_does_not_pass_is_given_up_and_aborted(start: Start, function: str) -> None:
    run = start(GRADUAL, **{function: [problem(503)]})
    assert not run.succeeded
    assert run.calls.count(function) == 7
    assert run.calls[-1] == "abort_deployment"
    assert run.calls.count("abort_deployment") == 1
    assert run.sleeps == STEP_DELAYS_S


QUOTA_ROUND_S = [*STEP_DELAYS_S, 60.0]


@pytest.mark.parametrize("function", [*ALL_AT_ONCE, "judge_canary"])
def test_quota_that_is_used_up_is_waited_for_and_then_given_up_and_aborted(
    start: Start, function: str
) -> None:
    run = start(GRADUAL, **{function: [problem(429)]})
    assert not run.succeeded
    assert run.sleeps == [*QUOTA_ROUND_S * 20, *STEP_DELAYS_S]
    assert sum(run.sleeps) > 30 * 60
    assert run.calls[-1] == "abort_deployment"
    assert run.calls.count("abort_deployment") == 1


def test_rollout_goes_on_once_a_quota_lets_it(start: Start) -> None:
    run = start(create_revision=[*[problem(429)] * 16, Answer(body={})])
    assert run.succeeded, run.error
    assert run.sleeps == [*QUOTA_ROUND_S * 2, *STEP_DELAYS_S[:2]]


# every failure ends in one abort


@pytest.mark.parametrize("status", [400, 404, 409, 422])
@pytest.mark.parametrize("function", [*ALL_AT_ONCE, "judge_canary"])
def test_refusal_at_any_step_is_not_tried_again_and_ends_in_one_abort(
    start: Start, function: str, status: int
) -> None:
    run = start(GRADUAL, **{function: [problem(status)]})
    assert run.execution.state == State.FAILED
    assert run.calls.count(function) == 1
    assert run.calls[-1] == "abort_deployment"
    assert run.calls.count("abort_deployment") == 1
    assert run.calls[-2] == function
    assert run.sleeps == []
    assert run.error["code"] == status

    [body] = run.functions.bodies("abort_deployment")
    assert body["deployment_id"] == NAME
    assert body["execution"] == run.execution.name
    assert body.keys() == {"deployment_id", "execution", "error"}
    assert body["error"]["code"] == status
    assert json.loads(body["error"]["body"])["detail"] == "exit code 3"


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_failure_at_a_later_stage_is_aborted_and_no_further_stage_begins(
    start: Start, stage: int
) -> None:
    run = start(GRADUAL, shift_traffic=[*[Answer(body={})] * stage, problem(409)])
    assert not run.succeeded
    assert run.calls.count("shift_traffic") == stage + 1
    assert run.calls[-1] == "abort_deployment"
    assert "finish_deployment" not in run.calls


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(body={"surprise": 1}), id="no such field"),
        pytest.param(Answer(body=b"<html>", content_type="text/html"), id="no JSON"),
    ],
)
def test_answer_that_cannot_be_read_is_aborted_too(start: Start, answer: Answer) -> None:
    run = start(claim_deployment=[answer])
    assert not run.succeeded
    assert run.calls == ["claim_deployment", "abort_deployment"]
    [body] = run.functions.bodies("abort_deployment")
    assert body["error"]["tags"]


# the way back


@pytest.mark.parametrize("status", [429, 500, 503, None])
def test_abort_is_tried_again_until_it_succeeds(start: Start, status: int | None) -> None:
    fault = problem(status) if status else Answer(None)
    run = start(
        check_health=[problem(422)],
        abort_deployment=[*[fault] * 20, Answer(body={"status": "failed"})],
    )
    assert not run.succeeded
    assert run.error["code"] == 422
    assert run.calls.count("abort_deployment") == 21
    assert run.sleeps == ABORT_DELAYS_S[:20]
    assert len({json.dumps(body) for body in run.functions.bodies("abort_deployment")}) == 1


def test_abort_that_never_succeeds_ends_the_execution_and_leaves_the_rest_to_reconcile(
    start: Start,
) -> None:
    run = start(check_health=[problem(422)], abort_deployment=[problem(503)])
    assert run.execution.state == State.FAILED
    assert run.calls.count("abort_deployment") == 25
    assert run.sleeps == ABORT_DELAYS_S
    assert sum(run.sleeps) > 15 * 60


def test_abort_that_is_refused_is_not_tried_again(start: Start) -> None:
    run = start(check_health=[problem(422)], abort_deployment=[problem(409)])
    assert run.execution.state == State.FAILED
    assert run.calls.count("abort_deployment") == 1
    assert run.sleeps == []


def test_functions_that_refuse_every_connection_are_tried_again_and_then_given_up(
    tmp_path: Path,
) -> None:
    bound = Listeners(tmp_path / "ports").bind("nobody")
    port = bound.getsockname()[1]
    # Bound and not listening: every connection is refused, and nobody else takes the port.
    with bound, deployed(tmp_path, f"http://{HOST}:{port}") as cloud:
        run = Run(cloud, Functions(IMMEDIATE))
    assert run.execution.state == State.FAILED
    assert run.sleeps == [*STEP_DELAYS_S, *ABORT_DELAYS_S]
    assert {"ConnectionError", "ConnectionFailedError"} & set(run.error["tags"])
