"""Settings, from the environment only: the same names in production and on one machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

TRAINING_TOPIC = "training-completed"
DEAD_LETTER_TOPIC = "training-completed-dead-letter"
EVENTS_TOPIC = "deployment-events"
EVENTS_DEAD_LETTER_TOPIC = "deployment-events-dead-letter"
WORKFLOW = "deploy-model"
TELEMETRY = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT")
# A host ends before `@`: what stands left of it would be a name and a password, and no host.
_CHAT = re.compile(r"(https://[^/?#@\s\\]+|http://127\.0\.0\.1:\d{1,5})([/?][!-~]*)?")


@dataclass(frozen=True)
class Settings:
    """Where things are. `grpc_emulator` is host:port of a plaintext server, or empty.

    `telemetry` are OpenTelemetry's own variables: the containers send where the functions do.
    """

    project: str
    region: str
    serving_bucket: str
    training_buckets: frozenset[str]
    functions_url: str
    grpc_emulator: str
    telemetry: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def from_environment(environment: Mapping[str, str] | None = None) -> Settings:
        """Read TURNOUT_*; ValueError names the one that is missing and cannot be derived."""
        values = os.environ if environment is None else environment
        project = values.get("TURNOUT_PROJECT") or values.get("GOOGLE_CLOUD_PROJECT", "")
        if not project:
            raise ValueError("set TURNOUT_PROJECT to the Google Cloud project")
        region = values.get("TURNOUT_REGION", "europe-central2")
        training = values.get("TURNOUT_TRAINING_BUCKETS") or f"{project}-training"
        return Settings(
            project=project,
            region=region,
            serving_bucket=values.get("TURNOUT_SERVING_BUCKET") or f"{project}-serving",
            training_buckets=frozenset(filter(None, (b.strip() for b in training.split(",")))),
            functions_url=(
                values.get("TURNOUT_FUNCTIONS_URL")
                or f"https://{region}-{project}.cloudfunctions.net"
            ).rstrip("/"),
            grpc_emulator=values.get("TURNOUT_GRPC_EMULATOR_HOST", ""),
            telemetry={name: values[name] for name in TELEMETRY if values.get(name)},
        )

    @property
    def parent(self) -> str:
        """The resource name of the region."""
        return f"projects/{self.project}/locations/{self.region}"


@dataclass(frozen=True)
class ChatSettings:
    """Where people are told: a webhook (a secret; empty: only the log), and where links go."""

    dashboard_url: str
    webhook: str = field(default="", repr=False)

    @staticmethod
    def from_environment(
        settings: Settings, environment: Mapping[str, str] | None = None
    ) -> ChatSettings:
        """Read TURNOUT_CHAT_WEBHOOK and TURNOUT_DASHBOARD_URL; ValueError for what is no URL."""
        values = os.environ if environment is None else environment
        dashboard = values.get("TURNOUT_DASHBOARD_URL") or f"{settings.functions_url}/dashboard"
        webhook = values.get("TURNOUT_CHAT_WEBHOOK", "").strip()
        if webhook and not _CHAT.fullmatch(webhook):
            raise ValueError("TURNOUT_CHAT_WEBHOOK must be an https URL")
        return ChatSettings(dashboard.rstrip("/"), webhook)
