"""Requests that the pipeline makes to addresses from outside: chat, judges, the candidate."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.config import ChatSettings, Settings
from shared.domain.canary import Verdict
from shared.errors import Refused
from shared.gcp.chat import Webhook
from shared.gcp.predictions import HttpPredictions
from shared.gcp.webhooks import HttpJudges
from shared.messages import Canary
from tests.workflow.running import Answer, listening

SETTINGS = Settings("shop", "r", "b", frozenset(), "https://functions.test", "")
INSIDE = [
    "169.254.169.254",
    "169.254.169.254:80",
    "metadata",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "127.0.0.1",
    "127.1",
    "0.0.0.0",
    "0",
    "localhost",
    "[::1]",
    "[::ffff:169.254.169.254]",
    "[fd00:ec2::254]",
    "judge.example.com@169.254.169.254",
    "judge.example.com\\@169.254.169.254",
    "judge.example.com#@169.254.169.254",
    "judge.example.com%2f@169.254.169.254",
    "①⑥⑨.254.169.254",
    "judge。example。com",
    "judge.example.com.",
    "",
]


@pytest.mark.parametrize("host", INSIDE)
def test_judge_is_asked_by_a_name_that_a_certificate_can_vouch_for(host: str) -> None:
    with pytest.raises(ValidationError, match="a webhook is https"):
        Canary(webhooks=(f"https://{host}/canary",))


@pytest.mark.parametrize("host", [*INSIDE, "metadata.google.internal", "judge.example.com"])
@pytest.mark.parametrize("scheme", ["http", "ftp", "file", "gopher", "javascript"])
def test_judge_is_asked_over_tls_but_for_this_very_machine(scheme: str, host: str) -> None:
    if scheme == "http" and host in ("127.0.0.1", "localhost"):
        assert Canary(webhooks=(f"{scheme}://{host}/canary",))
        return
    with pytest.raises(ValidationError, match="a webhook is https"):
        Canary(webhooks=(f"{scheme}://{host}/canary",))


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/T0",
        "http://127.0.0.1:80@hooks.example/",
        "http://127.0.0.1:8080.hooks.example/",
        "http://127.0.0.1/",
        "https://user:password@hooks.example/",
        "https://hooks.example\\@other.example/",
        "https:///T0",
        "https://hooks.example/a\nb",
        "javascript:alert(1)",
        "file:///etc/passwd",
    ],
)
def test_chat_is_told_over_tls_but_for_this_very_machine(url: str) -> None:
    with pytest.raises(ValueError, match="TURNOUT_CHAT_WEBHOOK") as refusal:
        ChatSettings.from_environment(SETTINGS, {"TURNOUT_CHAT_WEBHOOK": url})
    assert url not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.slack.com/services/T0/B0/x",
        "https://chat.googleapis.com/v1/spaces/S/messages?key=k&token=t%3D",
        "https://mattermost.example:8443/hooks/x",
        "http://127.0.0.1:8080/chat",
    ],
)
def test_webhook_as_chats_give_them_is_taken(url: str) -> None:
    found = ChatSettings.from_environment(SETTINGS, {"TURNOUT_CHAT_WEBHOOK": url})
    assert found.webhook == url


@contextmanager
def credentials_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> Iterator[None]:
    """Put a password for 127.0.0.1 and a proxy where HTTP clients look for them."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ops password hunter2\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    yield


def test_neither_chat_nor_judge_gets_credentials_of_the_environment_or_goes_through_its_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = Answer(body={"verdict": "pass"})
    with (
        listening([verdict]) as proxy,
        listening([verdict, verdict]) as hook,
        credentials_around(tmp_path, monkeypatch, proxy.url),
    ):
        Webhook(f"{hook.url}/chat").post("movies v4 is live")
        assert HttpJudges(5).ask(f"{hook.url}/judge", {}).verdict is Verdict.PASS
        assert proxy.requests == []
        asked = [(one.path, sorted(map(str.lower, one.headers))) for one in hook.requests]
    assert [path for path, _ in asked] == ["/chat", "/judge"]
    for _, headers in asked:
        assert not {"authorization", "cookie", "x-goog-api-key"} & set(headers)


@contextmanager
def answering(head: bytes, then: bytes = b"") -> Iterator[tuple[str, list[int]]]:
    """Answer one request with `head`, then with `then` for as long as it is read.

    Gives the URL, and how many bytes of `then` were taken.
    """
    taken, over = [0], threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.settimeout(0.2)
            connection.sendall(head)
            while then and not over.is_set():
                try:
                    taken[0] += connection.send(then)
                except OSError:
                    break

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", taken
        over.set()
        thread.join()


def test_chat_whose_answer_never_ends_is_not_read_to_its_end() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"
    with answering(head, b"x" * 65_536) as (url, taken):
        Webhook(url).post("movies v4 is live")
    # What the two sockets hold, and no more.
    assert taken[0] < 64 * 2**20


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_of_chat_is_refused_and_leads_nowhere(status: int) -> None:
    with listening([Answer(body={})]) as elsewhere:
        head = f"HTTP/1.1 {status} Go\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n"
        with answering(head.encode()) as (url, _), pytest.raises(Refused, match=str(status)):
            Webhook(url).post("movies v4 is live")
        assert elsewhere.requests == []


def test_redirect_of_a_candidate_leads_nowhere_with_key_or_customers() -> None:
    with listening([Answer(body={"results": []})]) as elsewhere:
        head = f"HTTP/1.1 307 Go\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n"
        with answering(head.encode()) as (url, _):
            status, body = HttpPredictions().recommend(url, "the-key", ["C1"], 3)
        assert (status, body) == (307, {})
        assert elsewhere.requests == []


def test_answer_of_a_candidate_that_is_nested_without_end_is_no_answer() -> None:
    deep = b"[" * 200_000
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(deep)}\r\n\r\n".encode()
    with answering(head + deep) as (url, _):
        assert HttpPredictions().health(url) == (200, {})


def test_what_a_judge_is_told_holds_no_credential() -> None:
    with listening([Answer(body={"verdict": "pass"})]) as hook:
        HttpJudges(5).ask(f"{hook.url}/?token=t", {"model_id": "movies"})
        [asked] = hook.requests
    assert json.loads(asked.body) == {"model_id": "movies"}
