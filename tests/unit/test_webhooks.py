"""Webhooks that judge: believed where they answer as agreed, inconclusive in every other case."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from shared.domain.canary import Judgement, Verdict
from shared.gcp.webhooks import HttpJudges
from shared.messages import Canary
from tests.workflow.running import Answer, listening

FACTS = {"deployment_id": "movies-2-auto", "percent": 10, "candidate_errors": 3}


def ask(answer: Answer, timeout_s: float = 5) -> tuple[Judgement, Any]:
    """Return what a webhook that answers so is taken for, and what it was asked."""
    with listening([answer]) as listener:
        found = HttpJudges(timeout_s).ask(f"{listener.url}/canary", FACTS)
        return found, listener.requests


@pytest.mark.parametrize("verdict", list(Verdict))
def test_verdict_is_heard_with_its_reason_and_the_facts_are_sent(verdict: Verdict) -> None:
    found, [asked] = ask(Answer(body={"verdict": verdict, "why": "revenue\nfell", "more": 1}))
    assert found.verdict is verdict
    assert f"127.0.0.1:{asked.headers['host'].split(':')[1]} says {verdict}" in found.why
    assert "revenue fell" in found.why
    assert (asked.method, asked.path) == ("POST", "/canary")
    assert json.loads(asked.body) == FACTS


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(body={"verdict": "good"}), id="unknown verdict"),
        pytest.param(Answer(body={"why": "no verdict"}), id="no verdict"),
        pytest.param(Answer(body=["pass"]), id="a list"),
        pytest.param(Answer(body={"verdict": ["pass"]}), id="a verdict that is a list"),
        pytest.param(Answer(body="pass"), id="a string"),
        pytest.param(Answer(body=b"<html>pass</html>"), id="no JSON"),
        pytest.param(Answer(body=b"\xff\xfe"), id="no text"),
        pytest.param(Answer(body=b""), id="nothing"),
        pytest.param(Answer(body=b"[" * 60_000), id="nested too deep"),
        pytest.param(
            Answer(body={"verdict": "pass", "why": "x" * 100_000}), id="longer than is read"
        ),
        pytest.param(Answer(201, {"verdict": "pass"}), id="not 200"),
        pytest.param(Answer(500, {"verdict": "pass"}), id="an error"),
        pytest.param(Answer(None), id="connection dropped"),
    ],
)
def test_anything_else_is_inconclusive(answer: Answer) -> None:
    found, _ = ask(answer)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "gave no verdict" in found.why


def test_redirect_is_not_followed() -> None:
    with listening([Answer(body={"verdict": "pass"})]) as other:
        location = f"HTTP/1.1 307 Moved\r\nLocation: {other.url}/\r\nContent-Length: 0\r\n\r\n"
        with raw(location.encode()) as url:
            found = HttpJudges(5).ask(url, FACTS)
        assert found.verdict is Verdict.INCONCLUSIVE
        assert "307" in found.why
        assert other.requests == []


@pytest.mark.parametrize(
    "begin",
    [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"],
    ids=["silent", "headers that never end", "a body that never ends"],
)
def test_webhook_that_drips_is_waited_for_no_longer_than_the_time_allows(begin: bytes) -> None:
    with raw(begin, drip=b"a" if begin.endswith(b"\r\n\r\n") else b"") as url:
        found = HttpJudges(0.3).ask(url, FACTS)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "gave no verdict" in found.why


def test_reason_does_not_give_a_secret_of_the_url_away() -> None:
    found = HttpJudges(0.2).ask("http://127.0.0.1:1/secret-path?key=secret", FACTS)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "secret" not in found.why
    assert "127.0.0.1:1" in found.why


@contextlib.contextmanager
def raw(answer: bytes, drip: bytes = b"") -> Iterator[str]:
    """Give the URL of a listener that answers with these bytes, then drips more for ever."""
    over = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(answer)
            while not over.wait(0.05):
                connection.sendall(drip)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/canary"
        over.set()
        thread.join()


@pytest.mark.parametrize(
    "url",
    [
        "https://judge.example.com",
        "https://judge.example.com:8443/canary?model=movies",
        "http://localhost:8080/canary",
        "http://127.0.0.1/canary",
    ],
)
def test_webhook_may_be_https_or_on_this_machine(url: str) -> None:
    assert Canary(webhooks=(url,)).webhooks == (url,)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "judge.example.com",
        "http://judge.example.com/canary",
        "http://localhost.example.com/canary",
        "http://localhost@judge.example.com/",
        "https://user:password@judge.example.com/",
        "https://judge.example.com\\@other/",
        "https:///canary",
        "https://judge.example.com/a b",
        "https://judge.example.com/\n",
        "ftp://judge.example.com/",
        "file:///etc/passwd",
        "http://metadata.google.internal/",
        "http://169.254.169.254/",
    ],
)
def test_webhook_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="a webhook is https"):
        Canary(webhooks=(url,))
