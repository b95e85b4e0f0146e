"""Who is asking, and what they may do: docs/decisions/0008-identity.md says why so."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import urlsplit

import flask

from functions.dashboard import tokens
from functions.dashboard.errors import NotAllowed, NotIdentified
from functions.dashboard.schemas import Role
from functions.dashboard.settings import DashboardSettings, IdentityMode
from functions.dashboard.tokens import Signatures

LOCAL_EMAIL = "developer@localhost"
GOOGLE_ISSUERS = frozenset({"https://accounts.google.com", "accounts.google.com"})
IAP_ISSUERS = frozenset({"https://cloud.google.com/iap"})
# What Google puts in the place of a signature that it has checked.
CHECKED_BY_GOOGLE = "SIGNATURE_REMOVED_BY_GOOGLE"
RANK: dict[Role, int] = {"viewer": 1, "deployer": 2, "admin": 3}

V = TypeVar("V", bound=Callable[..., Any])


@dataclass(frozen=True)
class Who:
    """A verified caller: e-mail, role, and where the request came from (`api 203.0.113.9`)."""

    email: str
    role: Role
    source: str

    def may(self, role: Role) -> bool:
        """True where the caller's role reaches `role`."""
        return RANK[self.role] >= RANK[role]


class Identify(Protocol):
    """Returns who sent a request; NotIdentified or NotAllowed otherwise."""

    def __call__(self, request: flask.Request) -> Who:
        """Identify the caller of one request."""
        ...


def identifier(settings: DashboardSettings, fetch: tokens.Fetch = tokens.fetch) -> Identify:
    """Return the identification that the settings ask for; `fetch` gets public keys."""
    signatures = Signatures(settings.certs_url, fetch)

    def identify(request: flask.Request) -> Who:
        if settings.mode is IdentityMode.LOCAL:
            _only_from_here(request, settings)
            return Who(LOCAL_EMAIL, "admin", source_of(request, settings))
        if settings.mode is IdentityMode.IAP:
            claims = _iap_claims(request, settings, signatures)
        else:
            claims = _iam_claims(request, settings, signatures)
        email = str(claims["email"]).lower()
        return Who(
            email, role_of(email, str(claims.get("hd", "")), settings), source_of(request, settings)
        )

    return identify


def role_of(email: str, hosted_domain: str, settings: DashboardSettings) -> Role:
    """Return the largest role that is listed for the caller; NotAllowed without any.

    `domain:example.com` wants Google's own word (`hd`) that the account belongs to that
    organisation: anybody can open an account under an address of a domain.
    """

    def listed(members: frozenset[str]) -> bool:
        own = email.rpartition("@")[2]
        if own.endswith(".gserviceaccount.com"):
            return email in members or f"domain:{own}" in members
        return email in members or f"domain:{hosted_domain.lower()}" in members

    if listed(settings.admins):
        return "admin"
    if listed(settings.deployers):
        return "deployer"
    if not settings.viewers or listed(settings.viewers):
        return "viewer"
    raise NotAllowed(f"{email} is on none of the dashboard's lists; ask one of its admins")


def source_of(request: flask.Request, settings: DashboardSettings) -> str:
    """Return `api` or `dashboard` with the caller's address.

    Whatever stands left of the entries that Google appended to X-Forwarded-For, the
    caller wrote.
    """
    way = "api" if request.path.startswith("/api/") else "dashboard"
    address = request.remote_addr or ""
    if settings.forwarded_hops:
        entries = ",".join(request.headers.getlist("X-Forwarded-For")).split(",")
        if len(entries) >= settings.forwarded_hops:
            address = entries[-settings.forwarded_hops].strip()
    try:
        return f"{way} {ipaddress.ip_address(address)}"
    except ValueError:
        return f"{way} unknown address"


def who() -> Who:
    """Return who sent the request being answered."""
    return cast(Who, flask.g.who)


def needs(role: Role) -> Callable[[V], V]:
    """Mark a view with the smallest role that may call it; the app checks it before the view.

    Reading without a mark takes a viewer; writing without one takes an admin.
    """

    def mark(view: V) -> V:
        view.needs_role = role  # type: ignore[attr-defined]
        return view

    return mark


def needed_role(view: Callable[..., Any] | None, method: str) -> Role:
    """Return the role that a request to `view` takes."""
    default: Role = "viewer" if view is None or method in ("GET", "HEAD", "OPTIONS") else "admin"
    return cast(Role, getattr(view, "needs_role", default))


def check_role(caller: Who, role: Role) -> None:
    """NotAllowed unless the caller's role reaches `role`."""
    if not caller.may(role):
        raise NotAllowed(f"this takes the role {role}; {caller.email} has the role {caller.role}")


def _iam_claims(
    request: flask.Request, settings: DashboardSettings, signatures: Signatures
) -> dict[str, Any]:
    """The claims of the ID token that Cloud Run checked before it let the request in.

    With X-Serverless-Authorization Google checks that header only: the other one is then
    whatever the caller likes.
    """
    header = request.headers.get("X-Serverless-Authorization") or request.headers.get(
        "Authorization", ""
    )
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise NotIdentified("send an ID token as `Authorization: Bearer TOKEN`")
    if settings.on_cloud_run and token.rpartition(".")[2] == CHECKED_BY_GOOGLE:
        claims = tokens.read(token)
        if settings.audiences and claims.get("aud") not in settings.audiences:
            raise NotIdentified("the token is meant for another service")
        _current(claims)
    else:
        claims = signatures.check(token, settings.audiences)
    return _person(claims, GOOGLE_ISSUERS)


def _iap_claims(
    request: flask.Request, settings: DashboardSettings, signatures: Signatures
) -> dict[str, Any]:
    token = request.headers.get("X-Goog-IAP-JWT-Assertion", "")
    if not token:
        raise NotIdentified("the request did not come through Identity-Aware Proxy")
    claims = signatures.check(token, settings.audiences)
    return _person({**claims, "email_verified": True}, IAP_ISSUERS)


def _person(claims: dict[str, Any], issuers: frozenset[str]) -> dict[str, Any]:
    if claims.get("iss") not in issuers:
        raise NotIdentified("the token has another issuer")
    email = claims.get("email")
    if not isinstance(email, str) or "@" not in email or claims.get("email_verified") is not True:
        raise NotIdentified("the token carries no verified e-mail address")
    return claims


def _current(claims: dict[str, Any]) -> None:
    expires = claims.get("exp")
    if not isinstance(expires, (int, float)) or expires + tokens.CLOCK_SKEW_S < time.time():
        raise NotIdentified("the token has expired")


def _only_from_here(request: flask.Request, settings: DashboardSettings) -> None:
    """NotIdentified unless peer and Host are loopback: a name that another site resolves to
    127.0.0.1 would otherwise reach it from a browser."""
    host = urlsplit(f"//{request.host}").hostname or ""
    forwarded = "X-Forwarded-For" in request.headers or "Forwarded" in request.headers
    here = _is_loopback(request.remote_addr or "") and (host == "localhost" or _is_loopback(host))
    if settings.on_cloud_run or forwarded or not here:
        raise NotIdentified("the local identity exists on loopback only; set TURNOUT_IDENTITY")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
