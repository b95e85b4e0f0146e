"""The dashboard's own settings, from the environment only."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

GOOGLE_CERTS_URL = "https://www.googleapis.com/oauth2/v1/certs"
IAP_CERTS_URL = "https://www.gstatic.com/iap/verify/public_key"
SHORTEST_SECRET = 32


class IdentityMode(StrEnum):
    """Who says who is asking: Google's IAM, Identity-Aware Proxy, or this very machine."""

    IAM = "iam"
    IAP = "iap"
    LOCAL = "local"


class Tools(StrEnum):
    """With which tools people publish messages and read logs: Google's, or the local cloud's."""

    GCLOUD = "gcloud"
    TURNOUT = "turnout"


@dataclass(frozen=True)
class DashboardSettings:
    """Identity, roles and what surrounds the dashboard.

    `admins`, `deployers` and `viewers` hold e-mails or `domain:example.com`; without
    `viewers` everybody whom Google lets in may read. `on_cloud_run` is Cloud Run's own
    word. `forwarded_hops` counts the entries that Google appends to X-Forwarded-For.
    `origins` are further origins that the pages are reached under. `secret` signs forms
    and derives repeated API keys; all instances must have the same. `tools` says which
    commands and links the pages offer.
    """

    mode: IdentityMode = IdentityMode.IAM
    admins: frozenset[str] = frozenset()
    deployers: frozenset[str] = frozenset()
    viewers: frozenset[str] = frozenset()
    audiences: frozenset[str] = frozenset()
    certs_url: str = GOOGLE_CERTS_URL
    on_cloud_run: bool = False
    forwarded_hops: int = 0
    origins: frozenset[str] = frozenset()
    secret: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    tools: Tools = Tools.GCLOUD

    @staticmethod
    def from_environment(environment: Mapping[str, str] | None = None) -> DashboardSettings:
        """Read TURNOUT_*; ValueError names what cannot be right."""
        values = os.environ if environment is None else environment
        name = values.get("TURNOUT_IDENTITY", "iam")
        if name not in list(IdentityMode):
            raise ValueError(f"TURNOUT_IDENTITY is iam, iap or local, got {name!r}")
        mode = IdentityMode(name)
        tools = values.get("TURNOUT_TOOLS", Tools.GCLOUD)
        if tools not in list(Tools):
            raise ValueError(f"TURNOUT_TOOLS is gcloud or turnout, got {tools!r}")
        on_cloud_run = bool(values.get("K_SERVICE"))
        if mode is IdentityMode.LOCAL and on_cloud_run:
            raise ValueError("TURNOUT_IDENTITY=local makes every caller an admin: not on Cloud Run")
        iap = mode is IdentityMode.IAP
        audiences = _listed(values, "TURNOUT_IAP_AUDIENCE" if iap else "TURNOUT_AUDIENCE")
        if iap and not audiences:
            raise ValueError("set TURNOUT_IAP_AUDIENCE: without it any project's IAP could sign")
        secret = values.get("TURNOUT_SECRET", "")
        if len(secret) < SHORTEST_SECRET:
            raise ValueError(
                f"set TURNOUT_SECRET to {SHORTEST_SECRET} random characters or more, the same in "
                "all instances (in production from Secret Manager)"
            )
        return DashboardSettings(
            mode=mode,
            admins=_members(values, "TURNOUT_ADMINS"),
            deployers=_members(values, "TURNOUT_DEPLOYERS"),
            viewers=_members(values, "TURNOUT_VIEWERS"),
            audiences=audiences,
            certs_url=values.get("TURNOUT_CERTS_URL")
            or (IAP_CERTS_URL if iap else GOOGLE_CERTS_URL),
            on_cloud_run=on_cloud_run,
            forwarded_hops=int(values.get("TURNOUT_FORWARDED_HOPS") or (1 if on_cloud_run else 0)),
            origins=_listed(values, "TURNOUT_ORIGINS"),
            secret=secret,
            tools=Tools(tools),
        )


def _listed(values: Mapping[str, str], name: str) -> frozenset[str]:
    return frozenset(filter(None, (one.strip() for one in values.get(name, "").split(","))))


def _members(values: Mapping[str, str], name: str) -> frozenset[str]:
    members = frozenset(one.lower() for one in _listed(values, name))
    for one in members:
        if "@" not in one and not (one.startswith("domain:") and one != "domain:"):
            raise ValueError(f"{name} lists e-mails and domain:NAME, got {one!r}")
    return members
