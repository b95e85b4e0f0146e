"""What arrives from outside and ends up in a path, a log, a terminal or another message."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from functions.on_training_completed import receive
from serving import logs as serving_logs
from shared import logs
from shared.domain.chat import harmless as harmless_in_chat
from shared.messages import Cancel, ClaimDeployment, RollBack, TrainingCompleted
from tests.unit.stepping import message, new_world
from turnout import output

NASTY = 'a\r\nb\x1b[2J\x9b31m\u2028c\u202ed</script>"\'{"severity": "EMERGENCY"}'


@pytest.mark.parametrize(
    "uri",
    [
        "gs://training/../serving/x",
        "gs://training/run-1/..",
        "gs://training/./run-1",
        "gs://training//run-1",
        "gs://training/",
        "gs://training",
        "gs:///run-1",
        "gs://../run-1",
        "gs://user:password@training/run-1",
        "gs://training@evil/run-1",
        "gs://training:80/run-1",
        "gs://training?/run-1",
        "gs://TRAINING/run-1",
        "gs://tr\u0430ining/run-1",
        "GS://training/run-1",
        "file:///etc/passwd",
        "https://storage.googleapis.com/training/run-1",
        "/etc/passwd",
        "training/run-1",
        "gs://training/run-1\0",
        "gs://training/run\r\n-1",
        "gs://training/run\\..\\1",
        "gs://training/run-1\u202e",
        "gs://training/run-1\u2028",
        "gs://training/run-1\x9b",
        "gs://training/" + "x" * 1_000,
        "gs://" + "x" * 300 + "/run-1",
    ],
)
def test_artifact_uri_that_leads_elsewhere_is_refused_and_lands_in_the_dead_letters(
    uri: str,
) -> None:
    world = new_world()
    assert receive(message(artifact_uri=uri), "m", world.ports()) == "refused"
    assert world.state.run("movies-1") is None
    assert len(world.dead_letters.messages) == 1


@pytest.mark.parametrize("uri", ["gs://evil/run-1", "gs://training-evil/run-1", "gs://train/run-1"])
def test_bucket_that_is_not_listed_is_refused(uri: str) -> None:
    world = new_world()
    assert receive(message(artifact_uri=uri), "m", world.ports()) == "refused"


@pytest.mark.parametrize("folder", ["run-1%2f..%2f..", "run-1/%2e%2e", "run-1/…", "lauf-ä/#1?x=y"])
def test_what_only_looks_like_a_way_out_is_a_name_like_any_other(folder: str) -> None:
    """Cloud Storage decodes nothing in a name, and neither does the pipeline."""
    found = TrainingCompleted.model_validate_json(message(artifact_uri=f"gs://training/{folder}"))
    assert (found.bucket, found.artifact_uri) == ("training", f"gs://training/{folder}")


POISON: Mapping[str, dict[str, Any]] = {
    "a metric's name, long": {"metrics": {"\U0001f682" * 2_000: 1.0}},
    "a metric's name, half a character": {"metrics": {"\ud800": 1.0}},
    "a field's name, long": {"\U0001f682" * 5_000: 1},
    "a field's name, nasty": {NASTY: 1},
    "many fields": {f"field-{number}": number for number in range(3_000)},
    "a uri, half a character": {"artifact_uri": "gs://training/\udfff"},
    "a person, half a character": {"deploy": {"requested_by": "\udfff"}},
    "a person, two lines": {"deploy": {"requested_by": "a\r\nb"}},
    "a person, steering": {"deploy": {"requested_by": "a\x9b31mb"}},
    "a request's id": {"deploy": {"request_id": "../../x"}},
    "a model": {"model_id": "movies/../books"},
    "a model, two lines": {"model_id": "movies\n"},
    "a number": {"run_number": 10**400},
    "a time": {"completed_at": "9" * 5_000},
    "deep": {"deploy": {"over": "9" * 5_000 + "h"}},
}


@pytest.mark.parametrize("fields", POISON.values(), ids=POISON)
def test_message_that_cannot_be_right_is_refused_in_words_that_can_be_stored_and_published(
    fields: dict[str, Any],
) -> None:
    world = new_world()
    assert receive(message(**fields), "m", world.ports()) == "refused"
    [(_, attributes)] = world.dead_letters.messages
    # Pub/Sub's own limits: an attribute that breaks them is refused at every redelivery.
    assert all(len(value.encode()) <= 1_024 for value in attributes.values())
    reason = world.state.refusals["m"]["reason"]
    assert len(reason.encode()) <= 8_000
    assert reason.isprintable()


@given(st.text(max_size=300))
def test_any_artifact_uri_is_a_folder_of_the_listed_bucket_or_refused(text: str) -> None:
    world = new_world()
    try:
        found = TrainingCompleted.model_validate_json(message(artifact_uri=f"gs://training/{text}"))
    except (ValidationError, UnicodeEncodeError):
        return
    folder = found.artifact_uri.removeprefix("gs://training/")
    assert folder.isprintable() or not folder.isascii()
    assert not {"", ".", ".."} & set(folder.split("/"))
    assert world.objects.list("training", folder + "/") == []


@pytest.mark.parametrize("kind", [RollBack, Cancel])
@pytest.mark.parametrize("field", ["reason", "requested_by"])
def test_reason_of_a_person_is_one_line_of_what_can_be_seen(kind: Any, field: str) -> None:
    given = {"model_id": "movies"} if kind is RollBack else {"deployment_id": "movies-1-auto"}
    for odd in ("\r\n", "\x1b[2J", "\x9b", "\u2028", "\u202e", "\u2066", "\0"):
        with pytest.raises(ValidationError):
            kind.model_validate({**given, field: f"a{odd}b"})
    assert kind.model_validate({**given, field: "größer → 好, 'x' <b>"})


@pytest.mark.parametrize(
    "deployment_id", ["../x", "a/b", "a%2fb", "a b", "movies-1\n", "", "x" * 200, "__a__"]
)
def test_deployment_is_named_by_a_document_id_and_nothing_else(deployment_id: str) -> None:
    with pytest.raises(ValidationError):
        ClaimDeployment(deployment_id=deployment_id, execution="e")


class TestLogs:
    def test_line_of_a_function_stays_one_and_its_own(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        logs.log("step done", model_id=NASTY, why=NASTY, metrics={NASTY: NASTY})
        logs.log_exception("step failed", ValueError(NASTY), reason=NASTY)
        _own(capsys.readouterr().out, ["INFO", "ERROR"])

    def test_line_of_the_container_stays_one_and_its_own(self) -> None:
        import logging

        record = logging.LogRecord("serving", logging.WARNING, "x.py", 1, "%s", (NASTY,), None)
        record.fields = {"path": NASTY, "reason": NASTY}
        _own(serving_logs.JsonLines().format(record) + "\n", ["WARNING"])

    @pytest.mark.parametrize(
        "header",
        [NASTY, "00-" + "0" * 31 + "\n-" + "0" * 16 + "-01", "x" * 5_000],
    )
    def test_trace_that_is_none_names_no_trace(self, header: str) -> None:
        assert serving_logs.trace_fields(header, header, "shop") == {}


def _own(written: str, severities: list[str]) -> None:
    lines = written.splitlines()
    assert [json.loads(line)["severity"] for line in lines] == severities
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_terminal_is_steered_by_nobody_elses_words(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = io.StringIO()
    console = Console(file=drawn, width=200, force_terminal=True, color_system=None)
    monkeypatch.setattr(output, "console", console)
    output.print_table("keys", ["Name"], [[NASTY], ["[red]x[/] [/nothing] :boom:"]])
    text = drawn.getvalue()
    assert not {"\x1b", "\x9b", "\r", "\u202e", "\u2028"} & set(text)
    assert "[red]x[/] [/nothing] :boom:" in text


@given(st.text(max_size=400))
def test_chat_is_told_one_short_line_that_calls_nobody(text: str) -> None:
    told = harmless_in_chat(text)
    assert len(told) <= 300
    assert not set("<>[]`\r\n") & set(told)
    assert not re.search(r"(?<!\w)@", told)


def test_time_of_the_message_is_no_reason_to_crash() -> None:
    world = new_world()
    late = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).isoformat()
    assert receive(message(completed_at=late), "m", world.ports()) in ("started", "refused")
