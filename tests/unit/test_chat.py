"""What people read in the chat: which events, in which words, once, and nothing that bites."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.announce import announce
from functions.on_deployment_event import tell
from functions.roll_back import go_back
from shared.config import ChatSettings
from shared.domain.announcement import Announcement, encode
from shared.domain.chat import LINES, harmless, message_of
from shared.domain.deployment import Event
from shared.errors import Refused, Unavailable
from shared.gcp.chat import Webhook
from shared.messages import RollBack
from shared.ports import Chat, ChatPorts
from tests.contract.push_endpoint import push_endpoint
from tests.fakes import SETTINGS, FakeChat, FakeClock, FakePosts, World
from tests.unit.stepping import MODEL, new_world, roll_out

HOME = "https://turnout.example/dashboard"
EVENT = Event(
    "movies-47-auto",
    MODEL,
    datetime(2026, 11, 24, 14, tzinfo=UTC),
    actor="dan@example.com",
    action="requested",
    reason="better: recall_at_100 0.4720 against 0.4680 live",
)


def told(action: str, **fields: object) -> Announcement:
    event = replace(EVENT, action=action, **fields)  # type: ignore[arg-type]
    return Announcement(f"20261124-{action}", event, 4, 47)


@pytest.mark.parametrize(
    ("one", "lines"),
    [
        pytest.param(
            told("requested"),
            [
                "movies v4 (run 47) was asked for by dan@example.com: better: recall_at_100 "
                "0.4720 against 0.4680 live",
                f"View: {HOME}/deployments/movies-47-auto",
            ],
            id="asked for",
        ),
        pytest.param(
            told(
                "traffic wanted",
                traffic={"model-serving-movies-v3-1": 90, "model-serving-movies-v4-1": 10},
            ),
            [
                "movies v4 takes the next share of traffic: v4 10 %, v3 90 %",
                f"View: {HOME}/deployments/movies-47-auto",
                f"Cancel: {HOME}/deployments/movies-47-auto/cancel",
            ],
            id="a step",
        ),
        pytest.param(
            told("holding", reason="waits for a person's approval: the policy wants it at 10 %"),
            [
                "movies v4 waits for a person's approval: the policy wants it at 10 %",
                f"View: {HOME}/deployments/movies-47-auto",
                f"Approve or skip: {HOME}/deployments/movies-47-auto#decide",
                f"Cancel: {HOME}/deployments/movies-47-auto/cancel",
            ],
            id="a hold",
        ),
        pytest.param(
            told("rollback", reason="odd"),
            [
                "movies v4 has all of the traffic again, by dan@example.com: odd",
                f"View: {HOME}/models/movies",
            ],
            id="a rollback",
        ),
        pytest.param(
            told("active", before="deploying", after="active"),
            [
                "movies v4 is live with all of the traffic",
                f"View: {HOME}/deployments/movies-47-auto",
                f"Roll back: {HOME}/models/movies/rollback",
            ],
            id="live",
        ),
    ],
)
def test_line_says_what_happened_and_links_to_pages_that_ask_first(
    one: Announcement, lines: list[str]
) -> None:
    assert (message_of(one, HOME) or "").split("\n") == lines


@pytest.mark.parametrize(
    ("one", "is_told"),
    [
        (told("judged", reason="fail at 10 %: 5 of 100 requests failed"), True),
        (told("judged", reason="inconclusive at 10 %: nothing was measured yet"), False),
        (told("judged", reason="pass at 10 %: 0 errors"), False),
        (told("active", before="inactive", after="active"), False),
        (told("active", before="deploying", after="active"), True),
        (told("failed", before="deploying", after="failed"), True),
        (told("cancelled"), True),
        (told("drift found"), True),
        (told("inactive"), False),
        (told("rolled_back"), False),
        (told("cleared away"), False),
        (told("never heard of"), False),
    ],
    ids=lambda one: getattr(one, "id", ""),
)
def test_only_what_people_want_to_hear_is_told(one: Announcement, is_told: bool) -> None:
    assert (message_of(one, HOME) is not None) == is_told


@given(st.sampled_from(sorted(LINES)), st.text(), st.text())
def test_text_from_outside_makes_no_line_no_link_and_no_mention(
    action: str, reason: str, actor: str
) -> None:
    bites = f"{reason} <!channel> @here [click](http://evil) `x` <http://evil|ours>\n@all"
    one = told(action, reason=f"fail {bites}", actor=actor + bites, before="deploying")
    said, *links = (message_of(one, HOME) or "").split("\n")
    assert len(links) == len(LINES[action].links)
    assert not set("<>[]`\r\t") & set(said)
    assert not re.search(r"(?<![\w.+-])@\w", said)
    assert len(said) < 1000


def test_addresses_stay_readable() -> None:
    assert harmless("by dan@example.com, p95 5 ms") == "by dan@example.com, p95 5 ms"


@pytest.fixture
def chat() -> FakeChat:
    return FakeChat()


@pytest.fixture
def ports(chat: Chat) -> ChatPorts:
    return ChatPorts(chat, FakePosts(), FakeClock(), HOME)


def deliver(one: Announcement, ports: ChatPorts) -> str:
    return tell(*encode(one, "shop"), ports)


def raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_event_delivered_twice_is_posted_once(chat: FakeChat, ports: ChatPorts) -> None:
    assert deliver(told("started"), ports) == "told"
    assert deliver(told("started"), ports) == "known"
    assert deliver(told("failed"), ports) == "told"
    assert len(chat.posts) == 2


def test_webhook_that_is_away_raises_and_the_next_delivery_posts(
    chat: FakeChat, ports: ChatPorts
) -> None:
    chat.before = raising(Unavailable("the webhook answered 503"))
    for _ in range(2):
        with pytest.raises(Unavailable, match="503"):
            deliver(told("started"), ports)
    chat.before = lambda: None
    assert deliver(told("started"), ports) == "told"
    assert len(chat.posts) == 1


def test_message_that_the_webhook_refuses_is_acknowledged_and_not_tried_again(
    chat: FakeChat, ports: ChatPorts
) -> None:
    chat.before = raising(Refused("the webhook answered 404"))
    assert deliver(told("started"), ports) == "told"
    chat.before = lambda: None
    assert deliver(told("started"), ports) == "known"
    assert chat.posts == []


def test_two_deliveries_at_once_post_once(chat: FakeChat, ports: ChatPorts) -> None:
    second: list[str] = []

    def meanwhile() -> None:
        chat.before = lambda: None
        with pytest.raises(Unavailable, match="just now"):
            second.append(deliver(told("started"), ports))

    chat.before = meanwhile
    assert deliver(told("started"), ports) == "told"
    assert (len(chat.posts), second) == (1, [])


def test_what_is_no_event_is_acknowledged(chat: FakeChat, ports: ChatPorts) -> None:
    assert tell(b"not JSON", {}, ports) == "not understood"
    assert chat.posts == []


def test_whole_rollout_and_its_rollback_are_few_lines(chat: FakeChat, ports: ChatPorts) -> None:
    world: World = new_world()
    for run in (1, 2):
        roll_out(world, run)
        world.clock.sleep(60)
    go_back(RollBack(model_id=MODEL, reason="odd"), "ops@example.com", world.ports())
    announce(world.ports())
    for data, attributes in world.events.messages:
        tell(data, attributes, ports)
    assert [post.split("\n")[0] for post in chat.posts][4:] == [
        "movies v2 (run 2) was asked for by training: "
        "better: recall_at_100 0.4200 against 0.4100 live (+0.0100)",
        "movies v2 is being deployed",
        "movies v2 takes the next share of traffic: v2 100 %",
        "movies v2 is live with all of the traffic",
        "movies v1 has all of the traffic again, by ops@example.com: odd",
    ]


# The webhook itself


@pytest.mark.parametrize(
    ("status", "error"),
    [(200, None), (204, None), (400, Refused), (404, Refused), (301, Refused)]
    + [(status, Unavailable) for status in (408, 429, 500, 503)],
)
def test_answer_of_a_real_webhook(status: int, error: type[Exception] | None) -> None:
    with push_endpoint(lambda _: status) as endpoint:
        if error:
            with pytest.raises(error, match=str(status)):
                Webhook(endpoint.url).post("movies v4 is live")
        else:
            Webhook(endpoint.url).post("movies v4 is live")
        assert endpoint.bodies == [{"text": "movies v4 is live"}]


def test_webhook_without_an_answer_is_away_and_its_secret_is_not_told() -> None:
    with push_endpoint() as endpoint:
        gone = endpoint.url
    with pytest.raises(Unavailable) as caught:
        Webhook(f"{gone}?token=secret").post("hello")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_without_a_webhook_nothing_is_posted() -> None:
    Webhook("").post("hello")


def test_settings_come_from_the_environment() -> None:
    found = ChatSettings.from_environment(SETTINGS, {})
    assert found == ChatSettings("https://functions.test/dashboard", "")
    given_ones = {
        "TURNOUT_CHAT_WEBHOOK": "https://hooks.example/T0/secret",
        "TURNOUT_DASHBOARD_URL": "https://turnout.example/",
    }
    found = ChatSettings.from_environment(SETTINGS, given_ones)
    assert (found.dashboard_url, found.webhook[-6:]) == ("https://turnout.example", "secret")
    assert "secret" not in repr(found)
    with pytest.raises(ValueError, match="TURNOUT_CHAT_WEBHOOK"):
        ChatSettings.from_environment(SETTINGS, {"TURNOUT_CHAT_WEBHOOK": "http://hooks.example/"})
