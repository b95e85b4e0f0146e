"""What keeps a browser from being used against its owner: origins, form tokens, headers.

The identity comes with every request by itself (the proxy adds it), so a request proves
nothing about who wanted it: see docs/decisions/0008-identity.md.
"""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import urlsplit

import flask

from functions.dashboard.errors import ForgedRequest
from functions.dashboard.identity import who
from functions.dashboard.settings import DashboardSettings, IdentityMode

COOKIE, FIELD = "turnout-form", "csrf_token"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    # A browser that came over plain http, as through the authenticated proxy, ignores it.
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Forms:
    """Tokens of forms: a signature over the browser's own cookie and the caller's e-mail."""

    def __init__(self, settings: DashboardSettings) -> None:
        self._secret = settings.secret.encode()
        # Through the authenticated proxy a browser speaks http with localhost, where not
        # every browser keeps a Secure cookie; the cookie lets nobody in.
        self._secure = settings.mode is IdentityMode.IAP

    def token(self) -> str:
        """Return the hidden field's value for the page being made; its cookie goes along."""
        cookie = flask.g.get("form_cookie") or _cookie() or secrets.token_urlsafe(18)
        flask.g.form_cookie = cookie
        return self._signed(cookie)

    def check(self, request: flask.Request) -> None:
        """ForgedRequest unless the form's field was made for this browser and this person."""
        cookie, field = _cookie(), request.form.get(FIELD, "")
        if not cookie or not hmac.compare_digest(field.encode(), self._signed(cookie).encode()):
            raise ForgedRequest("the form is too old or not ours; go back, reload, send it again")

    def keep(self, response: flask.Response) -> None:
        """Send the cookie along with a page that has a form."""
        cookie = flask.g.get("form_cookie")
        if cookie and cookie != _cookie():
            response.set_cookie(
                COOKIE,
                cookie,
                httponly=True,
                samesite="Strict",
                secure=self._secure,
                path=flask.request.script_root or "/",
            )

    def _signed(self, cookie: str) -> str:
        material = f"form\n{cookie}\n{who().email}"
        return hmac.new(self._secret, material.encode(), "sha256").hexdigest()


def check_origin(request: flask.Request, settings: DashboardSettings) -> None:
    """ForgedRequest where a browser says that a page of another origin sent it.

    Browsers say so themselves (Sec-Fetch-Site), also where the proxy in between has
    another name than the service. Programs send neither header.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        allowed = site == "same-origin"
    elif origin is not None:
        allowed = origin in settings.origins or urlsplit(origin).netloc == request.host
    else:
        allowed = True
    if not allowed:
        raise ForgedRequest("a page of another origin sent this; use the dashboard's own pages")


def add_headers(response: flask.Response) -> flask.Response:
    """Add the headers of every answer; what nobody declared cacheable is not stored."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if "Cache-Control" not in response.headers:
        # With an ETag the browser may keep it and must ask before it uses it.
        kept = "private, no-cache" if "ETag" in response.headers else "no-store"
        response.headers["Cache-Control"] = kept
    return response


def _cookie() -> str:
    return flask.request.cookies.get(COOKIE, "")
