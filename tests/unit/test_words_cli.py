"""`turnout pause`, `resume`, `approve`, `skip`: a person's word, through the REST API."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flask
import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from shared.domain.deployment import Deployment
from tests.dashboards import EMAILS, MODEL, SETTINGS, Dashboard, firestore_here, listening
from tests.unit.test_dashboard_cli import turnout

IDLE = "books"


@dataclass
class Console:
    """The command line of somebody whom gcloud knows, and the dashboard that it reaches."""

    dashboard: Dashboard
    rolling: Deployment
    environment: dict[str, str]
    tokens: Path

    def say(self, *words: str, role: str = "deployer") -> subprocess.CompletedProcess[str]:
        """Run a command as a person of that role."""
        self.dashboard.clock.sleep(1)
        self.tokens.write_text(self.dashboard.signer.token(EMAILS[role]))
        return turnout(*words, **self.environment)

    def now(self) -> Deployment:
        return self.dashboard.state.deployment(self.rolling.id)

    def last_event(self) -> Any:
        return self.dashboard.state.events(self.rolling.id)[-1]


@pytest.fixture
def console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    """v1 is live, v2 at its first stage; another model has no rollout."""
    gcloud, tokens = tmp_path / "gcloud", tmp_path / "token"
    gcloud.write_text(f"#!{sys.executable}\nprint(open({str(tokens)!r}).read())\n")
    gcloud.chmod(0o755)
    with firestore_here(tmp_path, monkeypatch) as client:
        dashboard = Dashboard(client, replace(SETTINGS, forwarded_hops=0))
        for model_id in (MODEL, IDLE):
            dashboard.declare(model_id)
        dashboard.live(41)
        rolling = dashboard.rolling(42)
        mounted = flask.Flask("functions")
        mounted.wsgi_app = DispatcherMiddleware(  # type: ignore[method-assign]
            mounted.wsgi_app, {"/dashboard": dashboard.app.wsgi_app}
        )
        with listening(mounted) as url:
            environment = {
                "TURNOUT_PROJECT": dashboard.client.project,
                "TURNOUT_FUNCTIONS_URL": url,
                "FIRESTORE_EMULATOR_HOST": dashboard.client._emulator_host,
                "PATH": str(tmp_path),
                # Nobody else than gcloud knows the person.
                "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "nothing"),
            }
            yield Console(dashboard, rolling, environment, tokens)


def test_words_of_a_deployer_are_kept_with_the_verified_name_and_the_reason(
    console: Console,
) -> None:
    said = console.say("pause", MODEL, "--reason", "a sale until noon")
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == "v2 of movies, at 10 % of the traffic: paused"
    assert console.now().paused
    event = console.last_event()
    assert (event.action, event.actor, event.reason, event.source) == (
        "paused",
        EMAILS["deployer"],
        "a sale until noon",
        "api 127.0.0.1",
    )

    assert console.say("resume", console.rolling.id).returncode == 0
    assert not console.now().paused
    approved = console.say("approve", MODEL, "--at", "10", "--json")
    assert json.loads(approved.stdout)["id"] == console.rolling.id
    assert console.now().approved
    assert console.say("skip", MODEL).returncode == 0
    assert console.now().skipped
    assert console.last_event().action == "skipped"


def test_approval_names_the_share_unless_the_rollout_waits_for_a_person(console: Console) -> None:
    baking = console.now()
    said = console.say("approve", MODEL)
    assert (said.returncode, said.stdout) == (1, "")
    assert "is at 10 % and waits for nobody" in " ".join(said.stderr.split())
    assert "--at 10" in " ".join(said.stderr.split())
    assert console.now() == baking

    held = replace(baking, holding_since=baking.stage_started_at)
    console.dashboard.state.change(MODEL, lambda book: book.put(held))
    said = console.say("approve", MODEL)
    assert said.stdout.strip() == "v2 of movies, at 10 % of the traffic: approved"

    # Somebody's approval, or one's own that was slow to answer, was heard meanwhile.
    moved = replace(baking, traffic_percent=50)
    console.dashboard.state.change(MODEL, lambda book: book.put(moved))
    said = console.say("approve", MODEL, "--at", "10")
    assert (said.returncode, said.stdout) == (1, "")
    assert "is at 50 % by now, not at 10 %" in " ".join(said.stderr.split())
    assert console.now() == moved


def test_word_of_a_viewer_is_refused_and_changes_nothing(console: Console) -> None:
    before = console.now()
    said = console.say("skip", MODEL, role="viewer")
    assert said.returncode == 1
    assert "takes the role deployer" in " ".join(said.stderr.split())
    assert console.now() == before


@pytest.mark.parametrize(
    ("named", "why"),
    [(IDLE, "no rollout under way"), ("movies-99-auto", "no deployment 'movies-99-auto'")],
)
def test_what_has_no_rollout_is_named(console: Console, named: str, why: str) -> None:
    said = console.say("approve", named)
    assert (said.returncode, said.stdout) == (1, "")
    assert why in " ".join(said.stderr.split())


@pytest.mark.parametrize("verb", ["pause", "resume", "approve", "skip", "cancel", "rollback"])
def test_help_teaches_with_an_example(verb: str) -> None:
    said = turnout(verb, "--help", COLUMNS="120")
    assert f"turnout {verb} movies" in said.stdout
    assert "--reason" in said.stdout
