"""A dashboard over the local Firestore, with the other services in memory."""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import flask
import pytest
from google.auth import crypt, jwt
from google.cloud import firestore
from werkzeug.serving import WSGIRequestHandler, make_server

from functions.dashboard.app import create_app
from functions.dashboard.identity import CHECKED_BY_GOOGLE, identifier
from functions.dashboard.settings import DashboardSettings, IdentityMode
from shared.domain.deployment import Deployment, ModelConfig, Status, Step, StepName, StepState
from shared.domain.model import Model, enter
from shared.domain.rollout import RolloutPlan, Strategy, plan_rollout
from shared.gcp.firestore import FirestoreKeys, FirestoreState
from shared.messages import ModelDeclaration
from shared.ports import Ports
from tests import fakes
from tests.contract.firestore_backends import connected, local_firestore

INDEXES = Path(__file__).parents[1] / "terraform" / "firestore.indexes.json"
PROJECT = "turnout-test"
MODEL = "movies"
NOW = datetime(2026, 11, 24, 14, 30, tzinfo=UTC)
AUDIENCE = "https://dashboard.test"
EMAILS = {
    "viewer": "vera@example.com",
    "deployer": "dan@example.com",
    "admin": "ada@example.com",
}
SETTINGS = DashboardSettings(
    mode=IdentityMode.IAM,
    admins=frozenset({EMAILS["admin"]}),
    deployers=frozenset({EMAILS["deployer"]}),
    viewers=frozenset(EMAILS.values()),
    audiences=frozenset({AUDIENCE}),
    forwarded_hops=1,
    secret="a secret of the test's own",
)
METRICS = {"recall_at_100": 0.468, "recall_at_50": 0.392, "recall_at_10": 0.189}


class Signer:
    """An identity provider of the test's own, with the public keys to check it by."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.certs: Mapping[str, str] = {"k1": public.decode()}
        self._signer = crypt.RSASigner.from_string(private, key_id="k1")

    def token(self, email: str, /, **claims: Any) -> str:
        """Return an ID token; `claims` replace those of a good one."""
        now = int(time.time())
        good = {
            "iss": "https://accounts.google.com",
            "aud": AUDIENCE,
            "sub": email,
            "email": email,
            "email_verified": True,
            "iat": now,
            "exp": now + 3600,
        }
        return jwt.encode(self._signer, {**good, **claims}).decode()

    def checked(self, email: str, /, **claims: Any) -> str:
        """Return the token as Cloud Run hands it on: without its signature."""
        return f"{self.token(email, **claims).rpartition('.')[0]}.{CHECKED_BY_GOOGLE}"


class Dashboard:
    """The app, what is behind it, and short ways to ask it."""

    def __init__(
        self,
        client: firestore.Client,
        settings: DashboardSettings = SETTINGS,
        *,
        signer: Signer | None = None,
    ) -> None:
        self.client = client
        self.settings = settings
        self.signer = signer or SIGNER
        self.clock = fakes.FakeClock(NOW)
        self.cloud_run = fakes.FakeCloudRun()
        self.objects = fakes.FakeObjects("training", "serving")
        self.jobs = fakes.FakeJobs(self.objects)
        self.executions = fakes.FakeExecutions()
        self.topic = fakes.FakeTopic()
        self.events = fakes.FakeTopic()
        keys = fakes.FakeKeys()
        self.state = FirestoreState(client)
        self.ports = Ports(
            settings=fakes.SETTINGS,
            state=self.state,
            objects=self.objects,
            cloud_run=self.cloud_run,
            jobs=self.jobs,
            executions=self.executions,
            dead_letters=fakes.FakeTopic(),
            events=self.events,
            predictions=fakes.FakePredictions(self.cloud_run, keys),
            keys=FirestoreKeys(client),
            clock=self.clock,
        )
        self.app = self.another(settings)

    def another(self, settings: DashboardSettings | None = None) -> flask.Flask:
        """Return another instance over the same state."""
        settings = settings or self.settings
        identify = identifier(settings, lambda _: self.signer.certs)
        return create_app(self.ports, self.client, self.topic, settings, identify)

    def ask(
        self,
        method: str,
        path: str,
        role: str = "admin",
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Any:
        """Send a request as a person of that role; `json` is the body."""
        token = self.signer.token(EMAILS[role])
        given = {"Authorization": f"Bearer {token}", "X-Forwarded-For": "203.0.113.9"}
        return self.app.test_client().open(
            path, method=method, headers={**given, **(headers or {})}, json=json, **more
        )

    def form(self, path: str, role: str = "admin", **fields: str | Sequence[str]) -> Any:
        """Send a form from one of the pages, with a good token, as a person of that role."""
        client = self.app.test_client()
        token = self.signer.token(EMAILS[role])
        client.set_cookie("turnout-form", "browser")
        return client.post(
            path,
            data={"csrf_token": form_token("browser", EMAILS[role]), **fields},
            headers={"Authorization": f"Bearer {token}", "Sec-Fetch-Site": "same-origin"},
        )

    # -- what was there before

    def declare(self, model_id: str = MODEL, **policy: Any) -> None:
        """Declare a model and its service."""
        declaration = declared(model_id, **policy)
        document = self.client.collection("model_configs").document(model_id)
        document.set(declaration.model_dump(mode="json"))
        self.cloud_run.declare(f"model-serving-{model_id}")

    def run(self, number: int, model_id: str = MODEL, **changed: Any) -> None:
        """Record a training run."""
        run = {
            "model_id": model_id,
            "run_number": number,
            "artifact_uri": f"gs://training/{model_id}/run-{number}",
            "feature_config": {"id": "config-042", "name": "Large embeddings"},
            "dataset": {"name": "Q4 2024 Training Data", "version": 3},
            "metrics": METRICS,
            "completed_at": NOW - timedelta(hours=2),
        }
        self.state.record_run(f"{model_id}-{number}", {**run, **changed})

    def live(self, number: int, model_id: str = MODEL, **fields: Any) -> Deployment:
        """Make a run the live version, as a finished rollout leaves it; the one before ends."""
        self.run(number, model_id, metrics=fields.get("metrics", METRICS))
        made = self._entered(number, model_id, **fields)
        revision = made.revision_of_attempt(1)
        at = self.clock.now()
        done = replace(
            made,
            status=Status.ACTIVE,
            healthy=True,
            cloud_run_revision=revision,
            deployed_at=at,
            traffic_percent=100,
            endpoint_url=f"https://model-serving-{model_id}.test",
            steps={name.value: Step(StepState.DONE, at, at, "done") for name in StepName},
        )
        service = f"model-serving-{model_id}"
        self.cloud_run.services[service].revisions[revision] = fakes.FakeRevision(done, "ready")
        self.cloud_run.by_hand(service, {revision: 100})

        def become_live(book: Any) -> None:
            if book.model.active:
                before = book.deployment(book.model.active)
                book.put(before.become(Status.INACTIVE, at, f"{made.name} took over"))
            book.put(done)
            book.model = replace(
                book.model, active=done.id, lock=None, waiting=None, desired={revision: 100}
            )

        self.state.change(model_id, become_live)
        return done

    def rolling(self, number: int, model_id: str = MODEL, percent: int = 10) -> Deployment:
        """Start a gradual rollout and leave it at its first stage."""
        self.run(number, model_id)
        plan = plan_rollout(Strategy.GRADUAL, (10, 50), 3600)
        made = self._entered(number, model_id, plan=plan)
        execution = self.executions.start(made)
        revision = made.revision_of_attempt(1)
        service = f"model-serving-{model_id}"
        snapshot = dict(self.cloud_run.service(service).split)
        self.cloud_run.services[service].revisions[revision] = fakes.FakeRevision(made, "ready")
        at = self.clock.now()
        rolled = replace(
            made,
            execution=execution,
            healthy=True,
            cloud_run_revision=revision,
            snapshot=snapshot,
            stage_started_at=at,
            traffic_percent=percent,
        )
        self.state.change(model_id, lambda book: book.put(rolled))
        return rolled

    def hour(self, deployment: Deployment, at: datetime, **fields: Any) -> None:
        """Store an hour of metrics as collect_metrics does."""
        hour = at.replace(minute=0, second=0, microsecond=0)
        values = {
            "deployment_id": deployment.id,
            "model_id": deployment.model_id,
            "hour": hour,
            "request_count": 100,
            "unique_customers": 40,
            "avg_latency_ms": 2.0,
            "p50_latency_ms": 1.5,
            "p95_latency_ms": 4.0,
            "p99_latency_ms": 9.0,
            "error_count": 0,
            "error_rate": 0.0,
        }
        name = f"{deployment.id}-{hour:%Y%m%d%H}"
        self.client.collection("serving_metrics").document(name).set({**values, **fields})

    def _entered(self, number: int, model_id: str, **fields: Any) -> Deployment:
        config = ModelConfig(model_id=model_id, image="image", service_account="sa@test")
        wanted = Deployment(
            **{
                "id": f"{model_id}-{number}-auto",
                "model_id": model_id,
                "version": 0,
                "training_run": number,
                "request_id": "auto",
                "artifact_uri": f"gs://training/{model_id}/run-{number}",
                "config": config,
                "plan": RolloutPlan(
                    Strategy.IMMEDIATE, plan_rollout(Strategy.IMMEDIATE, (), 0).stages
                ),
                "deployed_by": "training",
                "created_at": self.clock.now(),
                "cloud_run_service": config.service,
                "metrics": METRICS,
                "recall_at_100": METRICS["recall_at_100"],
                **fields,
            }
        )
        return self.state.change(model_id, lambda book: enter(book, wanted, "asked for"))

    def model(self, model_id: str = MODEL) -> Model:
        """Return the pipeline's state of a model."""
        return self.state.model(model_id)


def declared(model_id: str, **policy: Any) -> ModelDeclaration:
    """Return a model's declaration."""
    return ModelDeclaration(
        model_id=model_id, image="image", service_account="sa@test", policy={**policy}
    )


def form_token(cookie: str, email: str) -> str:
    """Return the hidden field that belongs to a browser's cookie and a person."""
    material = f"form\n{cookie}\n{email}"
    return hmac.new(SETTINGS.secret.encode(), material.encode(), "sha256").hexdigest()


@contextmanager
def firestore_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[firestore.Client]:
    """Serve the local Firestore with the project's declared indexes; gives its client."""
    with (
        local_firestore(folder, INDEXES) as address,
        connected(address, PROJECT, monkeypatch) as client,
    ):
        yield client


@contextmanager
def listening(app: flask.Flask) -> Iterator[str]:
    """Serve the app on a free loopback port; gives its base URL."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(WSGIRequestHandler):
    """Writes no line for each request."""

    def log(self, *_: object) -> None:
        """Write nothing."""


SIGNER = Signer()
