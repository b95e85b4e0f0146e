"""What workflows do: each test deploys a source and runs it against real listeners."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from localcloud.workflows import FakeClock, SourceError, SystemClock
from tests.workflow.running import EMAIL, Answer, Cloud, State, listening, until


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("interpreter")) as running:
        yield running


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cloud]:
    """A cloud of one test's own, with its clock."""
    with Cloud(tmp_path, clock=FakeClock()) as running:
        yield running


# Steps, jumps, variables


def test_steps_run_in_order_and_return_ends_them(cloud: Cloud) -> None:
    source = """
    main:
      steps:
        - first: {assign: [{x: 1}, {y: "${x + 1}"}, {x: "${x + 10}"}]}
        - second: {return: ["${x}", "${y}"]}
        - never: {raise: unreachable}
    """
    assert cloud.result(source) == [11, 2]


def test_bare_list_of_steps_is_a_main_workflow_that_may_return_nothing(cloud: Cloud) -> None:
    assert cloud.result("- only: {assign: [{x: 1}]}") is None


def test_next_jumps_forwards_and_backwards_and_end_ends(cloud: Cloud) -> None:
    source = """
    main:
      steps:
        - init: {assign: [{n: 0}, {seen: []}]}
        - again: {assign: [{n: "${n + 1}"}, {seen: "${list.concat(seen, n)}"}]}
        - check:
            switch:
              - {condition: "${n < 3}", next: again}
              - {condition: "${n == 3}", next: done}
        - skipped: {assign: [{seen: []}]}
        - done: {return: "${seen}"}
    """
    assert cloud.result(source) == [1, 2, 3]
    assert cloud.result("main: {steps: [{a: {next: end}}, {b: {return: 1}}]}") is None


def test_nested_steps_may_jump_to_a_step_around_them(cloud: Cloud) -> None:
    source = """
    main:
      steps:
        - group:
            steps:
              - inner: {assign: [{x: 1}], next: after}
              - skipped: {assign: [{x: 2}]}
        - between: {assign: [{x: 3}]}
        - after: {return: "${x}"}
    """
    assert cloud.result(source) == 1


def test_switch_takes_the_first_true_condition_and_its_inline_steps(cloud: Cloud) -> None:
    source = """
    main:
      params: [args]
      steps:
        - choose:
            switch:
              - {condition: "${args.n < 10}", assign: [{size: small}]}
              - condition: ${args.n < 100}
                steps:
                  - medium: {assign: [{size: medium}]}
              - {condition: true, return: large}
        - done: {return: "${size}"}
    """
    assert [cloud.result(source, {"n": n}) for n in (5, 50, 500)] == ["small", "medium", "large"]


def test_switch_without_a_match_goes_to_its_next(cloud: Cloud) -> None:
    source = """
    main:
      steps:
        - choose: {switch: [{condition: false, return: wrong}], next: last}
        - skipped: {return: skipped}
        - last: {return: last}
    """
    assert cloud.result(source) == "last"


def test_condition_that_is_not_boolean_raises_type_error(cloud: Cloud) -> None:
    error = cloud.error('main: {steps: [{a: {switch: [{condition: "${1}", return: 1}]}}]}')

    assert error["tags"] == ["TypeError"]


def test_assign_reaches_into_maps_and_lists_and_copies_values(cloud: Cloud) -> None:
    source = """
    main:
      steps:
        - init: {assign: [{m: {a: {b: [1, 2]}}}, {copy: "${m}"}, {k: c}]}
        - change:
            assign:
              - m.a.b[1]: 20
              - m["a"]["x y"]: 3
              - m[k + "1"]: {deep: true}
        - done: {return: {changed: "${m}", kept: "${copy}"}}
    """
    assert cloud.result(source) == {
        "changed": {"a": {"b": [1, 20], "x y": 3}, "c1": {"deep": True}},
        "kept": {"a": {"b": [1, 2]}},
    }


def test_keys_of_a_map_may_be_expressions(cloud: Cloud) -> None:
    source = """
    main:
      steps:
        - init: {assign: [{k: a}, {m: {"${k}": 1, '${k + "b"}': "${k}"}}]}
        - done: {return: "${m}"}
    """
    assert cloud.result(source) == {"a": 1, "ab": "a"}


@pytest.mark.parametrize(
    ("target", "tag"),
    [("m.missing.b", "KeyError"), ("l[5]", "IndexError"), ("m[1]", "TypeError")],
)
def test_assign_to_a_place_that_does_not_exist_raises(cloud: Cloud, target: str, tag: str) -> None:
    steps = [{"init": {"assign": [{"m": {}}, {"l": []}]}}, {"set": {"assign": [{target: 1}]}}]

    assert cloud.error(json.dumps({"main": {"steps": steps}}))["tags"] == [tag]


def test_variable_that_was_not_reached_has_no_value(cloud: Cloud) -> None:
    source = "main: {steps: [{a: {next: c}}, {b: {assign: [{x: 1}]}}, {c: {return: '${x}'}}]}"

    assert cloud.error(source)["tags"] == ["KeyError"]


# Loops


def test_for_goes_over_lists_ranges_and_keys_with_break_and_continue(cloud: Cloud) -> None:
    source = """
    main:
      steps:
        - init: {assign: [{seen: []}, {m: {x: 1, y: 2}}]}
        - over_list:
            for:
              value: v
              index: i
              in: [a, b, c, d]
              steps:
                - skip: {switch: [{condition: '${v == "b"}', next: continue}]}
                - stop: {switch: [{condition: '${v == "d"}', next: break}]}
                - add: {assign: [{seen: "${list.concat(seen, v + string(i))}"}]}
        - over_range:
            for:
              value: n
              range: [1, 3]
              steps: [{add_n: {assign: [{seen: "${list.concat(seen, n)}"}]}}]
        - over_computed_range:
            for:
              value: n
              range: '${[len(seen), 5]}'
              steps: [{add_computed: {assign: [{seen: "${list.concat(seen, n)}"}]}}]
        - over_keys:
            for:
              value: k
              in: ${keys(m)}
              steps: [{add_key: {assign: [{seen: "${list.concat(seen, m[k])}"}]}}]
        - done: {return: "${seen}"}
    """
    assert cloud.result(source) == ["a0", "c2", 1, 2, 3, 5, 1, 2]


def test_return_inside_a_loop_ends_the_workflow(cloud: Cloud) -> None:
    source = """
    main:
      steps:
        - loop:
            for: {value: v, in: [1, 2, 3], steps: [{out: {return: "${v}"}}]}
        - never: {return: 0}
    """
    assert cloud.result(source) == 1


def test_variable_of_an_iteration_is_gone_in_the_next(cloud: Cloud) -> None:
    source = """
    main:
      steps:
        - loop:
            for:
              value: v
              in: [1, 2]
              steps:
                - first: {switch: [{condition: "${v == 1}", assign: [{temp: 1}]}]}
                - read: {assign: [{other: "${temp}"}]}
    """
    assert cloud.error(source)["message"] == 'variable "temp" has no value yet'


# Subworkflows


def test_subworkflows_take_named_positional_and_default_arguments(cloud: Cloud) -> None:
    source = """
    main:
      steps:
        - named: {call: join, args: {a: x, b: y}, result: one}
        - positional: {call: join, args: [x], result: two}
        - done: {return: ["${one}", "${two}", "${join(one, two)}"]}
    join:
      params: [a, b: default]
      steps:
        - done: {return: '${a + "+" + b}'}
    """
    assert cloud.result(source) == ["x+y", "x+default", "x+y+x+default"]


def test_subworkflow_sees_none_of_its_callers_variables_nor_changes_them(cloud: Cloud) -> None:
    source = """
    main:
      steps:
        - init: {assign: [{m: {n: 1}}]}
        - call: {call: change, args: {m: "${m}"}}
        - done: {return: "${m}"}
    change:
      params: [m]
      steps: [{set: {assign: [{m.n: 2}]}}]
    """
    assert cloud.result(source) == {"n": 1}


def test_calls_nest_twenty_deep_and_no_deeper(cloud: Cloud) -> None:
    source = """
    main:
      params: [args]
      steps: [{start: {call: down, args: {n: "${args.n}"}, result: r}}, {done: {return: "${r}"}}]
    down:
      params: [n]
      steps:
        - stop: {switch: [{condition: "${n == 0}", return: bottom}]}
        - go: {call: down, args: {n: "${n - 1}"}, result: r}
        - done: {return: "${r}"}
    """
    assert cloud.result(source, {"n": 18}) == "bottom"
    assert cloud.error(source, {"n": 19})["tags"] == ["RecursionError"]


# Errors


def test_raised_values_reach_except_as_they_are(cloud: Cloud) -> None:
    source = """
    main:
      params: [args]
      steps:
        - risky:
            try: {raise: "${args.value}"}
            except:
              as: e
              steps: [{caught: {return: "${e}"}}]
    """
    for value in ("text", {"code": 55, "message": "custom", "tags": ["Mine"]}):
        assert cloud.result(source, {"value": value}) == value


def test_uncaught_error_fails_the_execution_with_payload_context_and_trace(cloud: Cloud) -> None:
    source = """main:
  steps:
    - outer:
        call: broken
broken:
  steps:
    - inner:
        raise: {code: 7, message: "it broke"}
"""
    ended = cloud.run(source)

    assert ended.state == State.FAILED
    assert json.loads(ended.error.payload) == {"code": 7, "message": "it broke"}
    assert ended.error.context == (
        'it broke\nin step "inner", routine "broken", line: 7\n'
        'in step "outer", routine "main", line: 3'
    )
    places = [(e.step, e.routine, e.position.line) for e in ended.error.stack_trace.elements]
    assert places == [("inner", "broken", 7), ("outer", "main", 3)]
    assert ended.result == ""


def test_error_raised_again_in_except_propagates(cloud: Cloud) -> None:
    source = """
    main:
      steps:
        - risky:
            try: {assign: [{x: "${1 / 0}"}]}
            except:
              as: e
              steps:
                - rethrow: {raise: "${e}"}
    """
    assert cloud.error(source)["tags"] == ["ZeroDivisionError"]


def test_except_may_jump_out_and_its_variables_stay_inside(cloud: Cloud) -> None:
    source = """
    main:
      steps:
        - init: {assign: [{why: null}]}
        - risky:
            try: {raise: broken}
            except: {as: e, steps: [{note: {assign: [{why: "${e}"}, {own: 1}], next: after}}]}
        - skipped: {assign: [{why: wrong}]}
        - after: {return: "${why}"}
    """
    assert cloud.result(source) == "broken"
    with pytest.raises(SourceError, match="variable 'own' is not defined"):
        cloud.deploy(source.replace('return: "${why}"', 'return: "${own}"'))


# Retries


RETRYING = """
main:
  params: [args]
  steps:
    - attempt:
        try:
          call: http.post
          args: {url: "${args.url}", body: {n: 1}}
          result: answer
        retry: RETRY
        except:
          as: e
          steps: [{given_up: {return: "${default(map.get(e, \\"code\\"), e.tags)}"}}]
    - done: {return: "${answer.body}"}
"""


def test_transient_failures_are_retried_with_growing_pauses_up_to_the_maximum(own: Cloud) -> None:
    retry = (
        "{predicate: '${http.default_retry_predicate}', max_retries: 5,"
        " backoff: {initial_delay: 2, max_delay: 10, multiplier: 2}}"
    )
    failing = [Answer(429), Answer(503), Answer(502), Answer(504), Answer(200, "done")]
    with listening(failing) as listener:
        result = own.result(RETRYING.replace("RETRY", retry), {"url": listener.url})

    assert result == "done"
    assert len(listener.requests) == 5
    assert own.clock.sleeps == [2, 4, 8, 10]  # type: ignore[attr-defined]


def test_default_policy_gives_up_after_five_retries(own: Cloud) -> None:
    with listening([Answer(503)]) as listener:
        code = own.result(RETRYING.replace("RETRY", "${http.default_retry}"), {"url": listener.url})

    assert code == 503
    assert len(listener.requests) == 6
    assert own.clock.sleeps == [1, 1.25, 1.5625, 1.953125, 2.44140625]  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", [400, 401, 404, 409, 500])
def test_what_trying_again_cannot_help_is_not_retried(own: Cloud, code: int) -> None:
    with listening([Answer(code)]) as listener:
        answer = own.result(
            RETRYING.replace("RETRY", "${http.default_retry}"), {"url": listener.url}
        )

    assert answer == code
    assert len(listener.requests) == 1


def test_dropped_connection_is_retried_only_by_the_idempotent_policy(own: Cloud) -> None:
    for policy, requests, result in (
        ("${http.default_retry}", 2, "ok"),
        ("${http.default_retry_non_idempotent}", 1, ["ConnectionError"]),
    ):
        with listening([Answer(None), Answer(200, "ok")]) as listener:
            got = own.result(RETRYING.replace("RETRY", policy), {"url": listener.url})

        assert (got, len(listener.requests)) == (result, requests)


def test_predicate_of_ones_own_decides(own: Cloud) -> None:
    retry = (
        "{predicate: '${only_409}', max_retries: 3,"
        " backoff: {initial_delay: 1, max_delay: 1, multiplier: 1}}"
    )
    source = RETRYING.replace("RETRY", retry) + (
        "only_409:\n  params: [e]\n  steps: [{answer: {return: '${e.code == 409}'}}]\n"
    )
    with listening([Answer(409), Answer(503), Answer(200)]) as listener:
        code = own.result(source, {"url": listener.url})

    assert code == 503
    assert len(listener.requests) == 2


def test_retry_runs_the_whole_block_again(own: Cloud) -> None:
    source = """
    main:
      steps:
        - init: {assign: [{n: 0}]}
        - block:
            try:
              steps:
                - count: {assign: [{n: "${n + 1}"}]}
                - maybe: {switch: [{condition: "${n < 3}", raise: again}]}
            retry:
              predicate: ${retry.always}
              max_retries: 5
              backoff: {initial_delay: 0.5, max_delay: 60, multiplier: 1.5}
        - done: {return: "${n}"}
    """
    assert own.result(source) == 3
    assert own.clock.sleeps == [0.5, 0.75]  # type: ignore[attr-defined]


def test_retry_may_take_the_librarys_backoff(own: Cloud) -> None:
    retry = "{predicate: '${retry.always}', max_retries: 2, backoff: '${retry.default_backoff}'}"
    with listening([Answer(400)]) as listener:
        own.result(RETRYING.replace("RETRY", retry), {"url": listener.url})

    assert own.clock.sleeps == [1, 1.25]  # type: ignore[attr-defined]


# HTTP


def test_request_carries_body_headers_query_and_a_token_for_its_audience(cloud: Cloud) -> None:
    source = """
    main:
      params: [args]
      steps:
        - call:
            call: http.post
            args:
              url: ${args.url + "/step?a=1"}
              headers: {X-Request: abc}
              query: {b: [x, "y z"], c: true}
              body: {percent: 10}
              auth: {type: OIDC, audience: "https://function"}
              timeout: 5
            result: answer
        - done: {return: "${answer}"}
    """
    with listening([Answer(201, {"moved": True})]) as listener:
        answer = cloud.result(source, {"url": listener.url})

    (asked,) = listener.requests
    assert (asked.method, asked.path) == ("POST", "/step?a=1&b=x&b=y+z&c=true")
    assert json.loads(asked.body) == {"percent": 10}
    assert asked.headers["content-type"] == "application/json; charset=utf-8"
    assert asked.headers["x-request"] == "abc"
    assert asked.headers["user-agent"].startswith("GoogleCloudWorkflows")
    claims = cloud.identity.verify(
        asked.headers["authorization"].removeprefix("Bearer "), "https://function"
    )
    assert claims["email"] == EMAIL
    assert (answer["code"], answer["body"]) == (201, {"moved": True})
    assert answer["headers"]["Content-Type"] == "application/json"


def test_token_is_for_the_url_itself_unless_an_audience_is_given(cloud: Cloud) -> None:
    source = """
    main:
      params: [args]
      steps: [{call: {call: http.get, args: {url: "${args.url}", auth: {type: OIDC}}}}]
    """
    with listening([Answer()]) as listener:
        cloud.result(source, {"url": listener.url + "/x"})

    token = listener.requests[0].headers["authorization"].removeprefix("Bearer ")
    assert cloud.identity.verify(token, listener.url + "/x")


@pytest.mark.parametrize(
    ("content_type", "content", "body"),
    [
        ("application/json", b'{"a": [1]}', {"a": [1]}),
        ("application/json; charset=utf-8", b"null", None),
        ("text/plain", b"plain", "plain"),
        ("application/problem+json", b'{"a": 1}', '{"a": 1}'),
        ("application/octet-stream", b"raw", "cmF3"),
    ],
)
def test_body_is_decoded_by_its_content_type(
    cloud: Cloud, content_type: str, content: bytes, body: Any
) -> None:
    source = """
    main:
      params: [args]
      steps:
        - call: {call: http.get, args: {url: "${args.url}"}, result: r}
        - raw:
            switch:
              - condition: '${get_type(r.body) == "bytes"}'
                return: ${base64.encode(r.body)}
        - done: {return: "${r.body}"}
    """
    with listening([Answer(200, content, content_type)]) as listener:
        assert cloud.result(source, {"url": listener.url}) == body


def test_error_status_raises_http_error_with_code_headers_and_decoded_body(cloud: Cloud) -> None:
    source = """
    main:
      params: [args]
      steps: [{call: {call: http.request, args: {method: DELETE, url: "${args.url}"}}}]
    """
    with listening([Answer(404, {"detail": "gone"})]) as listener:
        ended = cloud.run(source, {"url": listener.url})

    error = json.loads(ended.error.payload)
    assert error["tags"] == ["HttpError"]
    assert error["code"] == 404
    assert error["message"] == "HTTP server responded with error code 404"
    assert error["body"] == {"detail": "gone"}
    assert error["headers"]["Content-Type"] == "application/json"
    assert listener.requests[0].method == "DELETE"
    assert ended.error.context.endswith('in step "call", routine "main", line: 4')


GET = """
main:
  params: [args]
  steps: [{get: {call: http.get, args: {url: "${args.url}", timeout: 0.2}}}]
"""


def test_refused_connection_raises_connection_failed_error(cloud: Cloud) -> None:
    with listening([Answer()]) as listener:
        pass

    assert cloud.error(GET, {"url": listener.url})["tags"] == ["ConnectionFailedError"]


def test_server_that_does_not_answer_in_time_raises_timeout_error(cloud: Cloud) -> None:
    released = threading.Event()

    def answer(*_: object) -> Answer:
        released.wait(20)
        return Answer()

    with listening(answer) as listener:
        assert cloud.error(GET, {"url": listener.url})["tags"] == ["TimeoutError"]
        released.set()


def test_response_over_two_megabytes_raises_resource_limit_error(cloud: Cloud) -> None:
    with listening([Answer(200, b"x" * (2 * 1024 * 1024 + 1), "text/plain")]) as listener:
        error = cloud.error(GET.replace("0.2", "20"), {"url": listener.url})

    assert error["tags"] == ["ResourceLimitError"]


@pytest.mark.parametrize("url", ["ftp://x", "relative"])
def test_url_that_is_not_http_raises_value_error(cloud: Cloud, url: str) -> None:
    assert cloud.error(GET, {"url": url})["tags"] == ["ValueError"]


def test_timeout_over_half_an_hour_raises_value_error(cloud: Cloud) -> None:
    assert cloud.error(GET.replace("0.2", "1801"), {"url": "http://x"})["tags"] == ["ValueError"]


# Parallel steps


def test_branches_run_at_the_same_time_and_write_shared_variables(cloud: Cloud) -> None:
    source = """
    main:
      params: [args]
      steps:
        - init: {assign: [{got: {}}]}
        - both:
            parallel:
              shared: [got]
              branches:
                - left:
                    steps:
                      - get_left: {call: http.get, args: {url: "${args.left}"}, result: r}
                      - put_left: {assign: [{got.left: "${r.body}"}]}
                - right:
                    steps:
                      - get_right: {call: http.get, args: {url: "${args.right}"}, result: r}
                      - put_right: {assign: [{got.right: "${r.body}"}]}
        - done: {return: "${got}"}
    """
    together = threading.Barrier(2, timeout=10)

    def answer(path: str, *_: object) -> Answer:
        together.wait()  # broken unless both branches are waiting here at once
        return Answer(200, path)

    with listening(answer) as listener:
        urls = {"left": f"{listener.url}/l", "right": f"{listener.url}/r"}
        assert cloud.result(source, urls) == {"left": "/l", "right": "/r"}


def test_parallel_iterations_add_to_a_shared_variable_without_losing_one(cloud: Cloud) -> None:
    source = """
    main:
      steps:
        - init: {assign: [{total: 0}]}
        - all:
            parallel:
              shared: [total]
              for: {value: n, range: [1, 300], steps: [{add: {assign: [{total: "${total + n}"}]}}]}
        - done: {return: "${total}"}
    """
    assert cloud.result(source) == 300 * 301 // 2


def test_concurrency_limit_holds(cloud: Cloud) -> None:
    source = """
    main:
      params: [args]
      steps:
        - all:
            parallel:
              concurrency_limit: 2
              for:
                value: n
                range: [1, 6]
                steps: [{get: {call: http.get, args: {url: "${args.url}"}}}]
    """
    lock, now, most = threading.Lock(), [0], [0]
    pairs = threading.Barrier(2, timeout=10)

    def answer(*_: object) -> Answer:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        pairs.wait()
        with lock:
            now[0] -= 1
        return Answer()

    with listening(answer) as listener:
        cloud.result(source, {"url": listener.url})

    assert most == [2]


def test_failing_branches_leave_the_others_to_finish_and_raise_together(cloud: Cloud) -> None:
    source = """
    main:
      steps:
        - init: {assign: [{seen: []}]}
        - guarded:
            try:
              steps:
                - all:
                    parallel:
                      shared: [seen]
                      for:
                        value: n
                        range: [0, 5]
                        steps:
                          - odd:
                              switch:
                                - condition: ${n % 2 == 1}
                                  raise: ${"odd " + string(n)}
                          - even: {assign: [{seen: "${list.concat(seen, n)}"}]}
            except:
              as: e
              steps: [{answer: {return: {error: "${e}", seen: "${len(seen)}"}}}]
    """
    result = cloud.result(source)

    assert result["seen"] == 3
    assert "UnhandledBranchError" in result["error"]["tags"]
    assert result["error"]["branches"] == [{"id": str(n), "error": f"odd {n}"} for n in (1, 3, 5)]


def test_parallel_sleeps_pass_together(tmp_path: Path) -> None:
    source = """
    main:
      steps:
        - all:
            parallel:
              for:
                value: n
                range: [1, 3]
                steps: [{wait: {call: sys.sleep, args: {seconds: 60}}}]
    """
    clock = FakeClock(advancing=False)
    with Cloud(tmp_path, clock=clock) as cloud:
        begun = cloud.begin(source)
        clock.wait_until_asleep(3)
        clock.advance(60)
        ended = cloud.finished(begun)

    assert ended.state == State.SUCCEEDED
    assert ended.duration.total_seconds() == 60


# Sleeping and cancelling


def test_an_hour_of_sleep_takes_no_time_on_a_fake_clock(own: Cloud) -> None:
    source = """
    main:
      steps:
        - bake: {call: sys.sleep, args: {seconds: 3600}}
        - until: {call: sys.sleep_until, args: {time: "2026-01-01T02:00:00Z"}}
        - past: {call: sys.sleep_until, args: {time: "2020-01-01T00:00:00Z"}}
        - done: {return: "${sys.now()}"}
    """
    ended = own.run(source)

    assert json.loads(ended.result) == 1767225600.0 + 7200
    assert ended.duration.total_seconds() == 7200


@pytest.mark.parametrize("seconds", [-1, 31_536_001])
def test_sleep_outside_of_a_year_raises_value_error(cloud: Cloud, seconds: int) -> None:
    source = f"main: {{steps: [{{a: {{call: sys.sleep, args: {{seconds: {seconds}}}}}}}]}}"

    assert cloud.error(source)["tags"] == ["ValueError"]


GUARDED_SLEEP = """
main:
  params: [args]
  steps:
    - guarded:
        try:
          steps:
            - bake: {call: sys.sleep, args: {seconds: 3600}}
            - after: {call: http.get, args: {url: "${args.url}"}}
        except:
          as: e
          steps: [{abort: {call: http.get, args: {url: "${args.url}"}}}]
"""


def test_cancel_ends_a_sleep_at_once_and_runs_neither_the_next_step_nor_except(
    tmp_path: Path,
) -> None:
    with Cloud(tmp_path, clock=SystemClock()) as cloud, listening([Answer()]) as listener:
        begun = cloud.begin(GUARDED_SLEEP, {"url": listener.url})
        until(lambda: cloud.steps(begun), lambda steps: "bake" in steps)
        cancelled = cloud.client.cancel_execution(name=begun.name)
        until(threading.enumerate, lambda threads: not _runs(threads, begun.name))

        assert cancelled.state == State.CANCELLED
        assert cloud.finished(begun).state == State.CANCELLED
        assert cloud.steps(begun) == ["guarded", "bake"]
        assert listener.requests == []


def test_cancel_lets_a_request_in_flight_finish_and_starts_no_further_step(cloud: Cloud) -> None:
    source = """
    main:
      params: [args]
      steps:
        - slow: {call: http.get, args: {url: "${args.url}"}}
        - after: {call: http.get, args: {url: "${args.url}"}}
    """
    asked, release = threading.Event(), threading.Event()

    def answer(*_: object) -> Answer:
        asked.set()
        release.wait(20)
        return Answer()

    with listening(answer) as listener:
        begun = cloud.begin(source, {"url": listener.url})
        assert asked.wait(20)
        cancelled = cloud.client.cancel_execution(name=begun.name)
        release.set()
        until(threading.enumerate, lambda threads: not _runs(threads, begun.name))

        assert cancelled.state == State.CANCELLED
        assert len(listener.requests) == 1
        assert cloud.steps(begun) == ["slow"]


def _runs(threads: list[threading.Thread], execution: str) -> bool:
    return any(thread.name.endswith(execution.rsplit("/", 1)[1]) for thread in threads)


# Limits


def test_step_number_100001_raises_resource_limit_error(cloud: Cloud) -> None:
    source = "main: {steps: [{again: {next: again}}]}"

    error = cloud.error(source)

    assert error == {
        "message": "over 100000 steps in one execution",
        "tags": ["ResourceLimitError"],
    }


def test_string_over_256_kilobytes_raises_resource_limit_error(cloud: Cloud) -> None:
    source = """
    main:
      steps:
        - init: {assign: [{s: "0123456789abcdef"}]}
        - grow: {for: {value: n, range: [1, 15], steps: [{double: {assign: [{s: "${s + s}"}]}}]}}
    """
    assert "string longer" in cloud.error(source)["message"]


def test_variables_over_512_kilobytes_raise_resource_limit_error_and_locals_are_freed(
    cloud: Cloud,
) -> None:
    source = """
    main:
      params: [args]
      steps:
        - init: {assign: [{s: "0123456789abcdef"}, {all: []}]}
        - grow: {for: {value: n, range: [1, 12], steps: [{double: {assign: [{s: "${s + s}"}]}}]}}
        - local: {for: {value: n, range: [1, 30], steps: [{hold: {assign: [{mine: "${s}"}]}}]}}
        - hoard:
            for:
              value: n
              range: [1, "${args.n}"]
              steps: [{add: {assign: [{all: "${list.concat(all, s)}"}]}}]
        - done: {return: "${len(all)}"}
    """
    assert cloud.result(source, {"n": 5}) == 5
    assert "variables take over" in cloud.error(source, {"n": 8})["message"]


# What can never run is refused when it is loaded


REFUSED: list[tuple[str, str, str]] = [
    ("unknown_keyword", "main: {steps: [{a: {asign: [{x: 1}]}}]}", "has no 'asign' here"),
    ("two_actions", "main: {steps: [{a: {assign: [{x: 1}], return: 1}}]}", "one thing"),
    ("result_without_call", "main: {steps: [{a: {return: 1, result: x}}]}", "no 'result' here"),
    ("nothing_to_do", "main: {steps: [{a: {}}]}", "does nothing"),
    ("next_to_nowhere", "main: {steps: [{a: {next: b}}]}", 'no step "b"'),
    ("next_into_a_group",
     "main: {steps: [{a: {next: inner}}, {g: {steps: [{inner: {return: 1}}]}}]}", 'step "inner"'),
    ("next_out_of_a_loop",
     "main: {steps: [{a: {for: {value: v, in: [1], steps: [{i: {next: z}}]}}}, {z: {return: 1}}]}",
     'no step "z"'),
    ("break_without_loop", "main: {steps: [{a: {next: break}}]}", "no loop here to break"),
    ("repeated_step", "main: {steps: [{a: {next: end}}, {a: {next: end}}]}", "two steps of this"),
    ("repeated_key", "main: {steps: [{a: {return: 1, return: 2}}]}", "repeated"),
    ("unknown_call", "main: {steps: [{a: {call: helper}}]}", "unknown function 'helper'"),
    ("connector", "main: {steps: [{a: {call: googleapis.run.v2.services.get}}]}",
     "googleapis.run.v2.services.get: connectors are not supported"),
    ("callback", "main: {steps: [{a: {call: events.await_callback, args: {callback: 1}}}]}",
     "events.await_callback: callbacks are not supported"),
    ("unknown_argument", "main: {steps: [{a: {call: http.get, args: {uri: x}}}]}", "'uri'"),
    ("missing_argument", "main: {steps: [{a: {call: sys.sleep}}]}", "misses its argument"),
    ("private_service", "main: {steps: [{a: {call: http.get, args: {url: x, "
     "private_service_name: y}}}]}", "private_service_name is not supported"),
    ("unknown_auth", "main: {steps: [{a: {call: http.get, args: {url: x, auth: {type: Basic}}}}]}",
     "auth.type 'Basic'"),
    ("unknown_parameter",
     "main: {steps: [{a: {call: s, args: {y: 1}}}]}\ns: {params: [x], steps: [{b: {next: end}}]}",
     "no parameter 'y'"),
    ("missing_parameter",
     "main: {steps: [{a: {call: s}}]}\ns: {params: [x], steps: [{b: {next: end}}]}",
     "misses its argument 'x'"),
    ("for_directly_in_try",
     "main: {steps: [{a: {try: {for: {value: v, in: [1], steps: [{b: {next: continue}}]}},"
     " except: {as: e}}}]}", "named step under try"),
    ("try_alone", "main: {steps: [{a: {try: {return: 1}}}]}", "needs retry or except"),
    ("unknown_predicate",
     "main: {steps: [{a: {try: {return: 1}, retry: {predicate: '${nobody}', max_retries: 1,"
     " backoff: {initial_delay: 1, max_delay: 1, multiplier: 1}}}}]}", "'nobody'"),
    ("retry_without_backoff",
     "main: {steps: [{a: {try: {return: 1}, retry: {predicate: '${retry.always}',"
     " max_retries: 1}}}]}", "needs backoff"),
    ("retry_with_a_misspelt_delay",
     "main: {steps: [{a: {try: {return: 1}, retry: {predicate: '${retry.always}', max_retries: 1,"
     " backoff: {initial: 1, max_delay: 1, multiplier: 1}}}}]}", "no 'initial' here"),
    ("write_to_an_unshared_variable",
     "main: {steps: [{i: {assign: [{x: 1}]}}, {p: {parallel: {for: {value: v, in: [1],"
     " steps: [{w: {assign: [{x: 2}]}}]}}}}]}", "'x' belongs to outside"),
    ("share_what_is_not_there",
     "main: {steps: [{p: {parallel: {shared: [x], for: {value: v, in: [1],"
     " steps: [{w: {assign: [{y: 2}]}}]}}}}]}", "shared variable 'x' is not defined"),
    ("return_from_a_branch",
     "main: {steps: [{p: {parallel: {for: {value: v, in: [1], steps: [{w: {return: 2}}]}}}}]}",
     "return inside a parallel step"),
    ("one_branch",
     "main: {steps: [{p: {parallel: {branches: [{b: {steps: [{w: {next: end}}]}}]}}}]}",
     "2 to 10 branches"),
    ("other_exception_policy",
     "main: {steps: [{p: {parallel: {exception_policy: stop, for: {value: v, in: [1],"
     " steps: [{w: {next: continue}}]}}}}]}", "continueAll"),
    ("loop_variable_outside",
     "main: {steps: [{a: {for: {value: v, in: [1], steps: [{b: {next: continue}}]}}},"
     " {c: {return: '${v}'}}]}", "'v' is not defined"),
    ("two_main_parameters", "main: {params: [a, b], steps: [{s: {next: end}}]}", "one parameter"),
    ("no_main", "sub: {steps: [{a: {next: end}}]}", '"main"'),
    ("empty_steps", "main: {steps: []}", "at least one step"),
    ("alias", "main: {steps: [{a: {assign: [{x: &x 1}, {y: *x}]}}]}", "anchors"),
    ("not_yaml", "main: {steps: [", "not YAML"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_source_that_can_never_run_is_refused_when_loaded(
    cloud: Cloud, source: str, message: str
) -> None:
    with pytest.raises(SourceError) as refused:
        cloud.deploy(source)

    assert message in str(refused.value)
    assert "line 1" in str(refused.value) or "line 2" in str(refused.value)


def test_refused_source_names_workflow_step_and_line(cloud: Cloud) -> None:
    source = "main:\n  steps:\n    - first:\n        assign:\n          - x: ${1 +}\n"

    with pytest.raises(SourceError) as refused:
        cloud.deploy(source, "deploy_model")

    assert 'step "first", line 5: workflow "deploy_model"' in str(refused.value)


@pytest.mark.parametrize(
    ("count", "step"),
    [
        (50, {"assign": [{f"v{n}": n} for n in range(51)]}),
        (50, {"switch": [{"condition": True, "next": "end"}] * 51}),
        (10, {"parallel": {"branches": [
            {f"b{n}": {"steps": [{f"s{n}": {"assign": [{"x": 1}]}}]}} for n in range(11)
        ]}}),
    ],
    ids=["assignments", "conditions", "branches"],
)  # fmt: skip
def test_one_more_than_the_limit_is_refused(
    cloud: Cloud, count: int, step: Mapping[str, Any]
) -> None:
    with pytest.raises(SourceError, match=f"to {count} "):
        cloud.deploy(json.dumps({"main": {"steps": [{"a": step}]}}))


def test_source_over_128_kilobytes_is_refused(cloud: Cloud) -> None:
    with pytest.raises(SourceError, match="131072 bytes"):
        cloud.deploy("# " + "x" * 131072 + "\nmain: {steps: [{a: {next: end}}]}")


def test_words_that_yaml_1_1_would_change_stay_words(cloud: Cloud) -> None:
    source = "main: {steps: [{a: {return: [yes, on, 2026-01-01, 012, 1e3, True, ~]}}]}"

    assert cloud.result(source) == ["yes", "on", "2026-01-01", 12, 1000.0, True, None]


# History and logs


def test_history_holds_each_step_with_its_place_state_and_times(own: Cloud) -> None:
    source = """main:
  steps:
    - bake: {call: sys.sleep, args: {seconds: 60}}
    - broken: {raise: no}
"""
    begun = own.begin(source)
    own.finished(begun)

    entries = own.workflows.step_entries(begun.name.rsplit("/", 1)[1])
    assert [(e.step, e.kind, e.line, e.state, e.error) for e in entries] == [
        ("bake", "call", 3, "SUCCEEDED", None),
        ("broken", "raise", 4, "FAILED", "RuntimeError: 'no'"),
    ]
    assert entries[0].left == entries[0].entered + 60


def test_log_holds_what_sys_log_wrote_and_calls_as_the_level_says(own: Cloud) -> None:
    source = """
    main:
      params: [args]
      steps:
        - say: {call: sys.log, args: {text: "moved", severity: NOTICE}}
        - tell: {call: sys.log, args: {json: {percent: 10}}}
        - call:
            call: http.get
            args: {url: "${args.url}", headers: {Authorization: Bearer secret}}
    """
    with listening([Answer(500)]) as listener:
        for level in ("LOG_NONE", "LOG_ERRORS_ONLY", "LOG_ALL_CALLS"):
            own.run(source, {"url": listener.url}, call_log_level=level)

    entries = own.log()
    said = [entry for entry in entries if "call" not in entry.get("jsonPayload", {})]
    calls = [entry["jsonPayload"] for entry in entries if "call" in entry.get("jsonPayload", {})]
    assert [entry.get("textPayload") or entry["jsonPayload"] for entry in said] == [
        "moved", {"percent": 10},
    ] * 3  # fmt: skip
    assert said[0]["severity"] == "NOTICE"
    assert [(call["call"], call["state"]) for call in calls] == [
        ("http.get", "FAILED"),
        ("sys.log", "ACTIVE"), ("sys.log", "SUCCEEDED"),
        ("sys.log", "ACTIVE"), ("sys.log", "SUCCEEDED"),
        ("http.get", "ACTIVE"), ("http.get", "FAILED"),
    ]  # fmt: skip
    assert "secret" not in (own.folder / "executions.log").read_text()


@pytest.mark.parametrize(
    "args", [{"severity": "INFO"}, {"text": "a", "data": "b"}, {"json": "text"}]
)
def test_log_of_nothing_or_two_things_raises_type_error(cloud: Cloud, args: Any) -> None:
    source = json.dumps({"main": {"steps": [{"a": {"call": "sys.log", "args": args}}]}})

    assert cloud.error(source)["tags"] == ["TypeError"]
