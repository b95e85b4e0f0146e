"""The REST API over the local Firestore: what it answers, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from google.api_core.exceptions import RetryError, ServiceUnavailable

from shared.domain.announcement import decode
from shared.domain.deployment import Deployment, Status, Step, StepName, StepState
from shared.errors import Unavailable
from tests.dashboards import EMAILS, METRICS, MODEL, NOW, Dashboard, firestore_here
from tests.fakes import Behaviour


@pytest.fixture
def dashboard(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Dashboard]:
    with firestore_here(tmp_path_factory.mktemp("firestore"), monkeypatch) as client:
        dashboard = Dashboard(client)
        dashboard.declare()
        yield dashboard


class TestDeploying:
    def test_it_publishes_the_message_that_training_publishes_under_the_verified_name(
        self, dashboard: Dashboard
    ) -> None:
        dashboard.run(47)
        body = {
            "training_run": 47,
            "strategy": "gradual",
            "steps_percent": [10, 50],
            "over": "1h",
            "request_id": "7f3a",
        }
        answer = dashboard.ask("POST", f"/api/models/{MODEL}/deployments/", "deployer", body)
        assert answer.status_code == 202
        assert answer.json == {"deployment_id": "movies-47-7f3a", "message_id": "1"}
        assert answer.headers["Location"] == "/api/deployments/movies-47-7f3a/"
        [(data, attributes)] = dashboard.topic.messages
        assert attributes == {}
        assert json.loads(data) == {
            "schema_version": 1,
            "model_id": MODEL,
            "run_number": 47,
            "artifact_uri": "gs://training/movies/run-47",
            "feature_config": {"id": "config-042", "name": "Large embeddings"},
            "dataset": {"name": "Q4 2024 Training Data", "version": 3},
            "metrics": METRICS,
            "completed_at": "2026-11-24T12:30:00Z",
            "deploy": {
                "when": "always",
                "strategy": "gradual",
                "steps_percent": [10, 50],
                "over": "1h",
                "requested_by": EMAILS["deployer"],
                "request_id": "7f3a",
            },
        }

    def test_repeat_with_the_same_key_gets_the_same_answer_and_publishes_once(
        self, dashboard: Dashboard
    ) -> None:
        dashboard.run(47)
        first, second, third = (
            dashboard.ask(
                "POST",
                f"/api/models/{MODEL}/deployments/",
                role,
                {"training_run": 47},
                {"Idempotency-Key": "once"},
            ).json
            for role in ("deployer", "deployer", "admin")
        )
        assert first == second
        assert third["deployment_id"] != first["deployment_id"], "another person's key"
        assert len(dashboard.topic.messages) == 2

    def test_same_key_with_another_body_is_refused(self, dashboard: Dashboard) -> None:
        dashboard.run(47)
        dashboard.run(48)
        answers = [
            dashboard.ask(
                "POST",
                f"/api/models/{MODEL}/deployments/",
                json={"training_run": run},
                headers={"Idempotency-Key": "once"},
            )
            for run in (47, 48)
        ]
        assert [answer.status_code for answer in answers] == [202, 422]
        assert answers[1].json["code"] == "other_request"
        kept = [found.to_dict() for found in dashboard.client.collection("idempotency").stream()]
        assert [found["expires_at"] for found in kept] == [NOW + timedelta(days=1)]

    def test_without_a_key_each_request_is_another_deployment(self, dashboard: Dashboard) -> None:
        dashboard.run(47)
        ids = {
            dashboard.ask(
                "POST", f"/api/models/{MODEL}/deployments/", json={"training_run": 47}
            ).json["deployment_id"]
            for _ in range(2)
        }
        assert len(ids) == 2

    @pytest.mark.parametrize(
        ("body", "status", "named"),
        [
            ({}, 400, "training_run"),
            ({"training_run": "47"}, 400, "training_run"),
            ({"training_run": 47, "requested_by": "eve@example.com"}, 400, "requested_by"),
            ({"training_run": 47, "steps_percent": [0]}, 400, "steps_percent.0"),
            ({"training_run": 47, "over": "soon"}, 400, "over"),
            ({"training_run": 99}, 404, "99"),
            (
                {"training_run": 47, "strategy": "gradual", "steps_percent": [50, 10]},
                422,
                "steps_percent",
            ),
        ],
        ids=["nothing", "text", "another name", "zero", "no duration", "unknown run", "descending"],
    )
    def test_what_cannot_be_right_is_refused_by_name(
        self, dashboard: Dashboard, body: dict[str, Any], status: int, named: str
    ) -> None:
        dashboard.run(47)
        answer = dashboard.ask("POST", f"/api/models/{MODEL}/deployments/", json=body)
        assert answer.status_code == status
        assert answer.content_type == "application/problem+json"
        assert named in answer.json["detail"]
        assert dashboard.topic.messages == []


class TestActing:
    def test_pause_resume_approve_and_cancel_are_recorded_with_who_and_where(
        self, dashboard: Dashboard
    ) -> None:
        live = dashboard.live(41)
        rolling = dashboard.rolling(42)
        for verb in ("pause", "resume", "approve", "skip", "cancel"):
            body = {"reason": "because"} | ({"percent": 10} if verb == "approve" else {})
            answer = dashboard.ask(
                "POST", f"/api/deployments/{rolling.id}/{verb}/", "deployer", body
            )
            assert answer.status_code == 200
        assert answer.json["status"] == "cancelled"
        assert dashboard.cloud_run.service(rolling.config.service).split == {
            live.cloud_run_revision: 100
        }
        events = dashboard.ask("GET", f"/api/deployments/{rolling.id}/events/").json["items"]
        said = {event["action"]: event for event in events}
        assert {"paused", "resumed", "approved", "skipped", "cancelled"} <= set(said)
        for action in ("paused", "resumed", "approved", "skipped", "cancelled"):
            assert said[action]["actor"] == EMAILS["deployer"]
            assert said[action]["source"] == "api 203.0.113.9"

    def test_what_an_action_recorded_is_published_and_looking_publishes_nothing(
        self, dashboard: Dashboard
    ) -> None:
        dashboard.live(41)
        rolling = dashboard.rolling(42)
        dashboard.state.take_news()
        dashboard.ask("GET", f"/api/deployments/{rolling.id}/")
        assert dashboard.events.messages == []
        dashboard.ask("POST", f"/api/deployments/{rolling.id}/skip/", json={"reason": "live broke"})
        told = [decode(*message) for message in dashboard.events.messages]
        # All at one moment of this clock: in no order.
        assert sorted(one.event.action for one in told) == ["requested", "requested", "skipped"]
        (skipped,) = [one for one in told if one.event.action == "skipped"]
        assert (skipped.event.reason, skipped.version) == ("live broke", 2)
        assert dashboard.state.outbox(10) == []

    def test_action_succeeds_while_pubsub_is_down(self, dashboard: Dashboard) -> None:
        def down() -> None:
            raise ServiceUnavailable("down")

        first = dashboard.live(41)
        dashboard.live(42)
        dashboard.events.before = down
        answer = dashboard.ask("POST", f"/api/deployments/{first.id}/rollback/")
        assert (answer.status_code, answer.json["is_live"]) == (200, True)
        assert "rollback" in {one.event.action for one in dashboard.state.outbox(10)}

    def test_skip_is_shown_and_asks_for_all_of_the_traffic(self, dashboard: Dashboard) -> None:
        dashboard.live(41)
        rolling = dashboard.rolling(42)
        answer = dashboard.ask("POST", f"/api/deployments/{rolling.id}/skip/", "deployer")
        assert answer.status_code == 200
        assert (answer.json["skipped"], answer.json["paused"]) == (True, False)

    @pytest.mark.parametrize("body", [{"percent": 50}, {}, {"percent": None}])
    def test_approval_of_another_share_than_the_present_one_is_refused(
        self, dashboard: Dashboard, body: dict[str, Any]
    ) -> None:
        dashboard.live(41)
        rolling = dashboard.rolling(42, percent=10)
        path = f"/api/deployments/{rolling.id}/"
        answer = dashboard.ask("POST", f"{path}approve/", "deployer", body)
        assert (answer.status_code, answer.json["code"]) == (409, "conflict")
        assert "is at 10 %" in answer.json["detail"]
        assert dashboard.state.deployment(rolling.id) == rolling
        assert dashboard.ask("POST", f"{path}approve/", json={"percent": 10.0}).status_code == 200
        assert dashboard.state.deployment(rolling.id).approved

    @pytest.mark.parametrize("share", [0, 101, "10", 10.5])
    def test_approval_of_no_share_is_refused_by_name(
        self, dashboard: Dashboard, share: Any
    ) -> None:
        dashboard.live(41)
        rolling = dashboard.rolling(42)
        path = f"/api/deployments/{rolling.id}/approve/"
        answer = dashboard.ask("POST", path, json={"percent": share})
        assert (answer.status_code, "percent" in answer.json["detail"]) == (400, True)

    def test_rollback_asks_the_version_first_unless_it_is_told_not_to(
        self, dashboard: Dashboard
    ) -> None:
        first = sick(dashboard)
        path = f"/api/deployments/{first.id}/rollback/"
        refused = dashboard.ask("POST", path, "deployer", {"reason": "worse"})
        assert refused.status_code == 409
        assert not dashboard.ask("GET", f"/api/deployments/{first.id}/").json["is_live"]
        done = dashboard.ask("POST", path, "deployer", {"reason": "worse", "check": False})
        assert (done.status_code, done.json["is_live"]) == (200, True)

    def test_rollback_moves_the_traffic_and_the_statuses(self, dashboard: Dashboard) -> None:
        first = dashboard.live(41)
        dashboard.live(42)
        answer = dashboard.ask(
            "POST", f"/api/deployments/{first.id}/rollback/", "deployer", {"reason": "worse"}
        )
        assert answer.status_code == 200
        assert (answer.json["status"], answer.json["is_live"]) == ("active", True)
        assert dashboard.cloud_run.service(first.config.service).split == {
            first.cloud_run_revision: 100
        }
        versions = dashboard.ask("GET", f"/api/models/{MODEL}/deployments/").json["items"]
        assert [one["status"] for one in versions] == ["rolled_back", "active"]

    def test_action_without_a_body_is_enough(self, dashboard: Dashboard) -> None:
        dashboard.live(41)
        rolling = dashboard.rolling(42)
        assert dashboard.ask("POST", f"/api/deployments/{rolling.id}/pause/").status_code == 200

    def test_state_that_does_not_allow_it_answers_409(self, dashboard: Dashboard) -> None:
        live = dashboard.live(41)
        for verb in ("pause", "resume", "approve", "skip", "cancel"):
            answer = dashboard.ask("POST", f"/api/deployments/{live.id}/{verb}/")
            assert (verb, answer.status_code) == (verb, 409)

    @pytest.mark.parametrize("verb", ["pause", "resume", "approve", "skip", "cancel", "rollback"])
    def test_deployment_that_changed_since_it_was_read_is_left_alone(
        self, dashboard: Dashboard, verb: str
    ) -> None:
        first = dashboard.live(41)
        dashboard.live(42)
        rolling = dashboard.rolling(43)
        asked = first if verb == "rollback" else rolling
        path = f"/api/deployments/{asked.id}/"
        seen = dashboard.ask("GET", path).headers["ETag"]
        touch(dashboard, asked)
        before = dashboard.model()
        body = {"percent": 10} if verb == "approve" else None
        answer = dashboard.ask("POST", f"{path}{verb}/", json=body, headers={"If-Match": seen})
        assert (answer.status_code, answer.json["code"]) == (412, "changed")
        assert dashboard.model() == before
        present = dashboard.ask("GET", path).headers["ETag"]
        answer = dashboard.ask("POST", f"{path}{verb}/", json=body, headers={"If-Match": present})
        assert answer.status_code == 200

    def test_weak_entity_tag_never_matches_and_a_star_always_does(
        self, dashboard: Dashboard
    ) -> None:
        dashboard.live(41)
        path = f"/api/deployments/{dashboard.rolling(42).id}/"
        present = dashboard.ask("GET", path).headers["ETag"]
        weak = dashboard.ask("POST", f"{path}pause/", headers={"If-Match": f"W/{present}"})
        star = dashboard.ask("POST", f"{path}pause/", headers={"If-Match": "*"})
        assert (weak.status_code, star.status_code) == (412, 200)


class PartlyAway:
    """Cloud Run, of which one service cannot be read."""

    def __init__(self, behind: Any, service: str, fault: Exception) -> None:
        self._behind, self._service, self._fault = behind, service, fault

    def service(self, name: str) -> Any:
        if name == self._service:
            raise self._fault
        return self._behind.service(name)


def sick(dashboard: Dashboard) -> Deployment:
    """Return v1, which v2 replaced and whose own URL answers that it is not healthy."""
    first = dashboard.live(41)
    dashboard.live(42)
    service = dashboard.cloud_run.services[first.config.service]
    service.tags[first.tag] = first.cloud_run_revision
    dashboard.cloud_run.by_hand(first.config.service, service.split)
    predictions: Any = dashboard.ports.predictions
    predictions.behaviours[41] = Behaviour(health_status=503)
    return first


def touch(dashboard: Dashboard, deployment: Deployment) -> None:
    """Change something about the deployment, as a step of its workflow does."""
    dashboard.state.change(
        deployment.model_id,
        lambda book: book.put(replace(book.deployment(deployment.id), reason="touched")),
    )


class TestReading:
    def test_unchanged_deployment_answers_304_until_it_changes(self, dashboard: Dashboard) -> None:
        dashboard.live(41)
        rolling = dashboard.rolling(42)
        path = f"/api/deployments/{rolling.id}/"
        tag = dashboard.ask("GET", path).headers["ETag"]
        again = dashboard.ask("GET", path, headers={"If-None-Match": tag})
        assert (again.status_code, again.data) == (304, b"")
        assert again.headers["Cache-Control"] == "private, no-cache"
        dashboard.ask("POST", f"{path}pause/")
        assert dashboard.ask("GET", path, headers={"If-None-Match": tag}).status_code == 200

    def test_estimate_that_moved_on_is_another_answer_and_no_other_deployment(
        self, dashboard: Dashboard
    ) -> None:
        dashboard.live(41)
        rolling = dashboard.rolling(42)
        path = f"/api/deployments/{rolling.id}/"
        dashboard.state.change(
            MODEL,
            lambda book: book.put(
                replace(
                    rolling,
                    steps={StepName.SWITCH_TRAFFIC.value: Step(StepState.RUNNING, NOW)},
                )
            ),
        )
        tag = dashboard.ask("GET", path).headers["ETag"]
        dashboard.clock.sleep(600)
        later = dashboard.ask("GET", path, headers={"If-None-Match": tag})
        assert later.status_code == 200
        assert later.headers["ETag"] != tag
        pausing = dashboard.ask("POST", f"{path}pause/", headers={"If-Match": tag})
        assert pausing.status_code == 200

    @pytest.mark.parametrize(
        ("path", "field"),
        [
            (f"/api/models/{MODEL}/deployments/", "version"),
            (f"/api/models/{MODEL}/training-runs/", "run_number"),
        ],
    )
    def test_pages_hold_everything_once_newest_first(
        self, dashboard: Dashboard, path: str, field: str
    ) -> None:
        for number in range(1, 6):
            dashboard.live(number)
        seen, cursor = [], ""
        while True:
            page = dashboard.ask("GET", f"{path}?limit=2&cursor={cursor}").json
            seen += [one[field] for one in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == [5, 4, 3, 2, 1]

    def test_audit_trail_has_deployments_and_keys_in_one_order_over_its_pages(
        self, dashboard: Dashboard
    ) -> None:
        dashboard.live(41)
        for verb in ("pause", "resume"):
            dashboard.clock.sleep(60)
            if verb == "pause":
                rolling = dashboard.rolling(42)
            dashboard.ask("POST", f"/api/deployments/{rolling.id}/{verb}/")
            dashboard.clock.sleep(60)
            dashboard.ask("POST", f"/api/models/{MODEL}/api-keys/", json={"name": f"after {verb}"})
        dashboard.declare("books")
        dashboard.ask("POST", "/api/models/books/api-keys/", json={"name": "another model's"})
        seen, cursor = [], ""
        while cursor is not None:
            page = dashboard.ask("GET", f"/api/models/{MODEL}/audit/?limit=2&cursor={cursor}").json
            seen += page["items"]
            cursor = page["next_cursor"]
        assert [event["at"] for event in seen] == sorted(
            (event["at"] for event in seen), reverse=True
        )
        assert [event["action"] for event in seen][:3] == ["key created", "resumed", "key created"]
        assert {event["model_id"] for event in seen} == {MODEL}
        assert len(seen) == len({json.dumps(event) for event in seen})

    @pytest.mark.parametrize("cursor", ["x", "../..", "YXVkaXQ", "-1"])
    @pytest.mark.parametrize("list_", ["audit", "deployments", "training-runs"])
    def test_cursor_of_ones_own_making_is_refused(
        self, dashboard: Dashboard, list_: str, cursor: str
    ) -> None:
        answer = dashboard.ask("GET", f"/api/models/{MODEL}/{list_}/?cursor={cursor}")
        assert answer.status_code == 422
        assert "cursor" in answer.json["detail"]

    def test_run_is_better_only_by_the_models_own_metric_and_margin(
        self, dashboard: Dashboard
    ) -> None:
        dashboard.declare(MODEL, minimum_margin=0.003)
        dashboard.live(46)
        dashboard.run(47, metrics={**METRICS, "recall_at_100": 0.472})
        dashboard.run(48, metrics={**METRICS, "recall_at_100": 0.470})
        dashboard.run(49, metrics={"recall_at_10": 0.9})
        runs = dashboard.ask("GET", f"/api/models/{MODEL}/training-runs/").json["items"]
        found = {run["run_number"]: (run["better_by"], run["is_better"]) for run in runs}
        assert found[47] == (pytest.approx(0.004), True)
        assert found[48] == (pytest.approx(0.002), False)
        assert found[49] == (None, False)
        assert found[46] == (0.0, False)

    def test_comparison_has_every_metric_of_either_with_its_direction(
        self, dashboard: Dashboard
    ) -> None:
        dashboard.live(46, metrics={**METRICS, "loss": 0.5})
        new = {**METRICS, "recall_at_100": 0.472, "loss": 0.4, "coverage": 0.7}
        dashboard.run(47, metrics=new)
        answer = dashboard.ask("GET", f"/api/models/{MODEL}/compare/?training_run=47").json
        changes = {one["metric"]: one for one in answer["changes"]}
        assert answer["changes"][0]["metric"] == "recall_at_100"
        assert changes["recall_at_100"]["better"] is True
        assert (changes["loss"]["better"], changes["loss"]["change"]) == (True, pytest.approx(-0.1))
        assert changes["recall_at_10"]["better"] is None
        assert changes["coverage"]["current"] is None

    def test_today_is_the_sum_of_todays_hours_weighed_by_requests(
        self, dashboard: Dashboard
    ) -> None:
        live = dashboard.live(41)
        dashboard.hour(live, NOW, request_count=100, avg_latency_ms=2.0, error_count=1)
        dashboard.hour(
            live, NOW - timedelta(hours=2), request_count=300, avg_latency_ms=4.0, error_count=2
        )
        dashboard.hour(live, NOW - timedelta(days=1), request_count=999)
        today = dashboard.ask("GET", f"/api/models/{MODEL}/").json["today"]
        assert today == {"requests": 400, "errors": 3, "avg_latency_ms": 3.5}

    def test_metrics_are_the_hours_asked_for_oldest_first(self, dashboard: Dashboard) -> None:
        live = dashboard.live(41)
        for ago in range(5):
            dashboard.hour(live, NOW - timedelta(hours=ago))
        answer = dashboard.ask("GET", f"/api/deployments/{live.id}/metrics/?hours=3").json
        assert [hour["hour"] for hour in answer["hours"]] == [
            "2026-11-24T12:00:00Z",
            "2026-11-24T13:00:00Z",
            "2026-11-24T14:00:00Z",
        ]

    def test_model_says_what_is_live_what_moves_and_what_a_rollback_goes_to(
        self, dashboard: Dashboard
    ) -> None:
        dashboard.live(41)
        dashboard.clock.sleep(60)
        live = dashboard.live(42)
        quiet = dashboard.ask("GET", f"/api/models/{MODEL}/").json
        assert quiet["live"]["name"] == "v2"
        assert quiet["rollback_target"]["name"] == "v1"
        assert quiet["live_run"]["run_number"] == 42
        assert quiet["under_way"] is None
        assert quiet["traffic"] == [
            {"revision": live.cloud_run_revision, "version": "v2", "percent": 100}
        ]
        dashboard.rolling(43)
        moving = dashboard.ask("GET", f"/api/models/{MODEL}/").json
        assert moving["under_way"]["name"] == "v3"
        assert moving["rollback_target"]["name"] == "v2", "as the command line's rollback goes"

    def test_rollback_target_that_is_older_than_the_newest_versions_is_found(
        self, dashboard: Dashboard
    ) -> None:
        dashboard.live(1)
        dashboard.live(2)
        for number in range(3, 16):
            failed = replace(
                dashboard.rolling(number), status=Status.FAILED, deactivated_at=NOW, reason="no"
            )

            def end(book: Any, failed: Deployment = failed) -> None:
                book.put(failed)
                book.model = replace(book.model, lock=None)

            dashboard.state.change(MODEL, end)
        found = dashboard.ask("GET", f"/api/models/{MODEL}/").json
        assert (found["live"]["name"], found["rollback_target"]["name"]) == ("v2", "v1")

    @pytest.mark.parametrize(
        "fault", [ServiceUnavailable("away"), RetryError("away", None), Unavailable("away")]
    )
    def test_service_that_cannot_be_read_hides_neither_its_model_nor_the_others(
        self, dashboard: Dashboard, fault: Exception
    ) -> None:
        dashboard.live(41)
        dashboard.declare("books")
        dashboard.live(7, "books")
        partly: Any = PartlyAway(dashboard.cloud_run, "model-serving-books", fault)
        dashboard.ports = replace(dashboard.ports, cloud_run=partly)
        dashboard.app = dashboard.another()
        found = dashboard.ask("GET", "/api/models/").json["items"]
        assert {one["model_id"]: one["traffic"] != [] for one in found} == {
            "books": False,
            MODEL: True,
        }
        overview = dashboard.ask("GET", "/")
        assert overview.status_code == 200
        assert "How traffic is divided is not known just now." in overview.get_data(as_text=True)
        model = dashboard.ask("GET", "/api/models/books/").json
        assert model["endpoint_url"] == "https://model-serving-books.test"

    def test_health_check_of_what_does_not_answer_is_unhealthy_and_no_error(
        self, dashboard: Dashboard
    ) -> None:
        answer = dashboard.ask("POST", f"/api/models/{MODEL}/health-check/", "viewer")
        assert answer.status_code == 200
        assert (answer.json["healthy"], answer.json["status_code"]) == (False, 503)
        assert answer.json["error"] == "no model is deployed yet"


class TestKeys:
    def test_key_is_shown_once_and_only_its_hash_is_stored(
        self, dashboard: Dashboard, capsys: pytest.CaptureFixture[str]
    ) -> None:
        made = dashboard.ask(
            "POST", f"/api/models/{MODEL}/api-keys/", json={"name": "shop", "days": 30}
        )
        assert made.status_code == 201
        assert made.headers["Cache-Control"] == "no-store"
        plain = made.json["key"]
        assert made.json["id"] == sha256(plain.encode()).hexdigest()
        assert made.json["created_by"] == EMAILS["admin"]
        [listed] = dashboard.ask("GET", f"/api/models/{MODEL}/api-keys/").json["items"]
        assert "key" not in listed
        stored = [
            json.dumps(found.to_dict(), default=str)
            for name in ("api_keys", "idempotency", "rate_limits", "dashboard")
            for found in dashboard.client.collection(name).stream()
        ]
        trail = dashboard.ask("GET", f"/api/models/{MODEL}/audit/").get_data(as_text=True)
        for text in (*stored, trail, capsys.readouterr().out):
            assert plain not in text

    def test_repeat_with_the_same_key_finds_the_same_api_key(self, dashboard: Dashboard) -> None:
        answers = [
            dashboard.ask(
                "POST",
                f"/api/models/{MODEL}/api-keys/",
                json={"name": name},
                headers={"Idempotency-Key": key},
            )
            for name, key in (("shop", "1"), ("shop", "1"), ("shop", "2"), ("other", "1"))
        ]
        assert [answer.status_code for answer in answers] == [201, 201, 201, 422]
        assert answers[0].json == answers[1].json
        assert answers[2].json["key"] != answers[0].json["key"]
        listed = dashboard.ask("GET", f"/api/models/{MODEL}/api-keys/").json["items"]
        assert len(listed) == 2
        stored = [
            json.dumps(found.to_dict(), default=str)
            for found in dashboard.client.collection("idempotency").stream()
        ]
        assert not any(answers[0].json["key"] in text for text in stored)

    def test_revoked_and_expired_keys_say_so(self, dashboard: Dashboard) -> None:
        revoked, expired = (
            dashboard.ask(
                "POST", f"/api/models/{MODEL}/api-keys/", json={"name": name, "days": days}
            ).json
            for name, days in (("revoked", None), ("expired", 1))
        )
        answer = dashboard.ask("DELETE", f"/api/api-keys/{revoked['id']}/")
        assert (answer.status_code, answer.json["state"]) == (200, "revoked")
        dashboard.clock.time = NOW + timedelta(days=4000)
        listed = dashboard.ask("GET", f"/api/models/{MODEL}/api-keys/").json["items"]
        states = {one["name"]: one["state"] for one in listed}
        assert states == {"revoked": "revoked", "expired": "expired"}
        assert expired["state"] == "active"
        again = dashboard.ask("DELETE", f"/api/api-keys/{revoked['id']}/")
        assert again.status_code == 200
        actions = [
            event["action"]
            for event in dashboard.ask("GET", f"/api/models/{MODEL}/audit/").json["items"]
        ]
        assert actions.count("key revoked") == 1, "the repeat changed nothing"

    def test_keys_of_health_checks_push_no_application_off_the_page(
        self, dashboard: Dashboard
    ) -> None:
        made = dashboard.ask("POST", f"/api/models/{MODEL}/api-keys/", json={"name": "shop"}).json
        keys = dashboard.client.collection("api_keys")
        document = keys.document(made["id"]).get().to_dict() or {}
        writer = dashboard.client.batch()
        for number in range(201):
            of_check = {
                "name": f"health check of v{number}",
                "created_by": "check_health",
                "created_at": NOW + timedelta(minutes=number + 1),
                # One was left by a check that died.
                "is_active": number == 0,
            }
            writer.set(keys.document(f"{number:064x}"), document | of_check)
        writer.commit()
        listed = dashboard.ask("GET", f"/api/models/{MODEL}/api-keys/").json["items"]
        assert [one["name"] for one in listed] == ["shop"]
        page = f"/models/{MODEL}/keys/{made['id']}/revoke"
        assert "shop" in dashboard.ask("GET", page).get_data(as_text=True)

    def test_key_is_revoked_from_its_own_models_page_only(self, dashboard: Dashboard) -> None:
        dashboard.declare("books")
        made = dashboard.ask("POST", f"/api/models/{MODEL}/api-keys/", json={"name": "shop"}).json
        for page in (f"/models/books/keys/{made['id']}", f"/models/{MODEL}/keys/{'0' * 64}"):
            assert dashboard.ask("GET", f"{page}/revoke").status_code == 404

    def test_limit_of_new_keys_holds_across_instances(self, dashboard: Dashboard) -> None:
        instances = [dashboard.app, dashboard.another()]
        headers = {"Authorization": f"Bearer {dashboard.signer.token(EMAILS['admin'])}"}

        def create(number: int) -> Any:
            return (
                instances[number % 2]
                .test_client()
                .post(
                    f"/api/models/{MODEL}/api-keys/",
                    json={"name": f"key {number}"},
                    headers=headers,
                )
            )

        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(create, range(14)))
        statuses = [answer.status_code for answer in answers]
        assert (statuses.count(201), statuses.count(429)) == (10, 4)
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["Retry-After"]) == 30 * 60 + 1
        dashboard.clock.sleep(31 * 60)
        assert create(99).status_code == 201


class TestRefusals:
    @pytest.mark.parametrize(
        ("method", "path", "status", "code"),
        [
            ("GET", "/api/nothing", 404, "not_found"),
            ("PUT", f"/api/models/{MODEL}/", 405, "method_not_allowed"),
            ("OPTIONS", f"/api/models/{MODEL}/", 405, "method_not_allowed"),
            ("GET", "/api/models/UPPER/", 404, "not_found"),
            ("GET", "/api/models/nothing/", 404, "not_found"),
            ("GET", "/api/deployments/nothing-1-auto/", 404, "not_found"),
            ("DELETE", f"/api/api-keys/{'0' * 64}/", 404, "not_found"),
            ("GET", f"/api/models/{MODEL}/deployments/?limit=101", 400, "invalid_request"),
            ("GET", f"/api/models/{MODEL}/deployments/?limit=ten", 400, "invalid_request"),
            ("GET", f"/api/models/{MODEL}/deployments/?limit=1&limit=2", 400, "invalid_request"),
            ("GET", f"/api/models/{MODEL}/?verbose=1", 400, "invalid_request"),
        ],
    )
    def test_every_refusal_is_a_problem_document(
        self, dashboard: Dashboard, method: str, path: str, status: int, code: str
    ) -> None:
        answer = dashboard.ask(method, path)
        assert answer.content_type == "application/problem+json"
        assert set(answer.json) == {"type", "title", "status", "code", "detail"}
        assert (answer.status_code, answer.json["status"], answer.json["code"]) == (
            status,
            status,
            code,
        )

    def test_405_says_which_methods_there_are(self, dashboard: Dashboard) -> None:
        answer = dashboard.ask("PUT", f"/api/models/{MODEL}/deployments/")
        assert answer.headers["Allow"] == "GET, HEAD, POST"

    @pytest.mark.parametrize(
        ("content", "kind", "status"),
        [
            (b"name=shop", "application/x-www-form-urlencoded", 415),
            (b'{"name": "shop"}', "text/plain", 415),
            (b"", "", 415),
            (b"{", "application/json", 400),
            (b'"{\\"name\\": \\"shop\\"}"', "application/json", 400),
            (b'{"name": "a\\nb"}', "application/json", 400),
            (b'{"name": "shop", "days": NaN}', "application/json", 400),
            (b'{"name": "' + b"a" * 70_000 + b'"}', "application/json", 413),
        ],
        ids=["form", "text", "nothing", "broken", "text in text", "two lines", "NaN", "too large"],
    )
    def test_body_that_is_not_the_documented_json_is_refused(
        self, dashboard: Dashboard, content: bytes, kind: str, status: int
    ) -> None:
        answer = dashboard.ask(
            "POST",
            f"/api/models/{MODEL}/api-keys/",
            data=content,
            content_type=kind or None,
        )
        assert answer.status_code == status
        assert answer.content_type == "application/problem+json"
        assert dashboard.ask("GET", f"/api/models/{MODEL}/api-keys/").json["items"] == []

    def test_fault_that_nobody_expected_says_nothing_of_its_inside(
        self, dashboard: Dashboard, capsys: pytest.CaptureFixture[str]
    ) -> None:
        document = dashboard.client.collection("model_configs").document(MODEL)
        document.set({"broken": "secret inside"})
        answer = dashboard.ask("GET", f"/api/models/{MODEL}/")
        assert (answer.status_code, answer.json["code"]) == (500, "pipeline_error")
        assert "broken" not in answer.get_data(as_text=True)
        assert "stack_trace" in capsys.readouterr().out
