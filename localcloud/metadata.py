"""The metadata server: where Google's libraries find out who they are, and get ID tokens."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

from aiohttp import web

from localcloud.identity import LIFETIME_S, Identity

_FLAVOR = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}
#: A path begins with the region of who asks: on Google's side each has servers of its own.
_REGION = "/{region:[a-z]+-[a-z]+[0-9]+}"
_ROOT = _REGION + "/computeMetadata/v1"
_ACCOUNT = _ROOT + "/instance/service-accounts/{account}"
_SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
#: Any fixed number will do: nothing on this machine is addressed by it.
_PROJECT_NUMBER = "123456789012"


def metadata_environment(address: str, region: str) -> dict[str, str]:
    """Return what a child process in `region` needs in its environment to use the server.

    `address` is the server's HOST:PORT. google-auth asks GCE_METADATA_HOST for everything but
    its first ping, which goes to GCE_METADATA_IP: with only the first it finds no server.
    """
    of_region = f"{address}/{region}"
    return {"GCE_METADATA_HOST": of_region, "GCE_METADATA_IP": of_region}


class Metadata:
    """Answers for one service account, `email`, of one project, to whoever is in any region."""

    def __init__(self, identity: Identity, project: str, email: str) -> None:
        self._identity = identity
        self._email = email
        self._texts = {
            "/project/project-id": project,
            "/project/numeric-project-id": _PROJECT_NUMBER,
            "/universe/universe-domain": "googleapis.com",
            "/instance/region": f"projects/{_PROJECT_NUMBER}/regions/{{region}}",
            "/instance/zone": f"projects/{_PROJECT_NUMBER}/zones/{{region}}-1",
        }

    def app(self) -> web.Application:
        """Return the HTTP application."""
        app = web.Application(middlewares=[_require_flavor])
        app.router.add_get(_REGION, self._ping)
        for path in self._texts:
            app.router.add_get(_ROOT + path, self._text)
        app.router.add_get(_ROOT + "/instance/service-accounts/", self._accounts)
        app.router.add_get(_ACCOUNT + "/", self._account)
        app.router.add_get(_ACCOUNT + "/email", self._account_email)
        app.router.add_get(_ACCOUNT + "/scopes", self._account_scopes)
        app.router.add_get(_ACCOUNT + "/token", self._account_token)
        app.router.add_get(_ACCOUNT + "/identity", self._account_identity)
        app.router.add_route("*", "/{path:.*}", self._unsupported)
        return app

    async def _ping(self, _: web.Request) -> web.Response:
        return _plain("computeMetadata/\n")

    async def _text(self, request: web.Request) -> web.Response:
        path = request.path.partition("/computeMetadata/v1")[2]
        return _plain(self._texts[path].format(region=request.match_info["region"]))

    async def _accounts(self, request: web.Request) -> web.Response:
        if _recursive(request):
            description = self._description()
            return web.json_response(
                {"default": description, self._email: description}, headers=_FLAVOR
            )
        return _plain(f"default/\n{self._email}/\n")

    async def _account(self, request: web.Request) -> web.Response:
        self._check_account(request)
        if _recursive(request):
            return web.json_response(self._description(), headers=_FLAVOR)
        return _plain("aliases\nemail\nidentity\nscopes\ntoken\n")

    async def _account_email(self, request: web.Request) -> web.Response:
        self._check_account(request)
        return _plain(self._email)

    async def _account_scopes(self, request: web.Request) -> web.Response:
        self._check_account(request)
        return _plain("\n".join(_SCOPES) + "\n")

    async def _account_token(self, request: web.Request) -> web.Response:
        """Give an access token. No local service looks at it, so its scopes mean nothing."""
        self._check_account(request)
        token = {
            "access_token": f"local.{secrets.token_urlsafe(32)}",
            "expires_in": LIFETIME_S,
            "token_type": "Bearer",
        }
        return web.json_response(token, headers=_FLAVOR)

    async def _account_identity(self, request: web.Request) -> web.Response:
        """Give an ID token for `audience`; it names the account's email in either format."""
        self._check_account(request)
        audience = request.query.get("audience")
        if not audience:
            raise web.HTTPBadRequest(text="non-empty audience parameter required\n")
        if request.query.get("format", "standard") not in ("standard", "full"):
            raise web.HTTPBadRequest(text="format must be standard or full\n")
        if unknown := set(request.query) - {"audience", "format"}:
            raise web.HTTPNotImplemented(text=f"identity parameter {min(unknown)!r}\n")
        return _plain(self._identity.mint(audience, self._email))

    async def _unsupported(self, request: web.Request) -> web.Response:
        # 404 is what the real server says to a key it does not have, and clients expect it.
        status = 404 if request.method == "GET" else 501
        return _plain(f"{request.method} {request.path} is not served here\n", status)

    def _check_account(self, request: web.Request) -> None:
        if request.match_info["account"] not in ("default", self._email):
            raise web.HTTPNotFound(text="no such service account on this machine\n")

    def _description(self) -> dict[str, object]:
        return {"aliases": ["default"], "email": self._email, "scopes": _SCOPES}


@web.middleware
async def _require_flavor(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse what a browser or a fooled proxy could send, as the real server does."""
    asked = request.headers.get("Metadata-Flavor") == "Google"
    forwarded = "X-Forwarded-For" in request.headers
    is_ping = request.path.count("/") == 1
    if not is_ping and (forwarded or not asked):
        return _plain("Missing required header 'Metadata-Flavor: Google'\n", 403)
    return await handler(request)


def _recursive(request: web.Request) -> bool:
    return request.query.get("recursive", "false").lower() == "true"


def _plain(text: str, status: int = 200) -> web.Response:
    # The type that the real server sends; google-auth takes it as text, not as JSON.
    headers = {**_FLAVOR, "Content-Type": "application/text"}
    return web.Response(body=text.encode(), status=status, headers=headers)
