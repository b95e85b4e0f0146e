"""Who may call a function: what Google's IAM checks before the function sees the request."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus

from google.auth import jwt

from localcloud.identity import ISSUER

#: What Google puts in the place of the signature, so that no function can pass a token on.
_REMOVED = "SIGNATURE_REMOVED_BY_GOOGLE"


@dataclass(frozen=True)
class Refusal:
    """Why a caller may not call: Google answers 403 without a token, 401 to a wrong one."""

    status: HTTPStatus
    detail: str


@dataclass(frozen=True)
class Invoker:
    """Checks callers against the identity provider's public key (PEM)."""

    base_url: str
    public_key: str
    public: Collection[str]

    def admit(self, function: str, authorization: str | None) -> Refusal | str | None:
        """Return the `Authorization` header that the function may see, or a refusal.

        The token's audience must be the function's own URL. A public function takes any
        caller and sees the header as it came.
        """
        if function in self.public:
            return authorization
        if not authorization:
            return Refusal(
                HTTPStatus.FORBIDDEN,
                f"{function} takes authenticated callers only:"
                f" send an ID token for the audience {self.base_url}/{function}",
            )
        scheme, _, token = authorization.partition(" ")
        try:
            if scheme.lower() != "bearer":
                raise ValueError("not a bearer token")
            claims = jwt.decode(
                token.strip(),
                certs={"local": self.public_key},
                audience=f"{self.base_url}/{function}",
            )
            if claims.get("iss") != ISSUER:
                raise ValueError(f"token of issuer {claims.get('iss')!r}")
        except ValueError as error:
            return Refusal(HTTPStatus.UNAUTHORIZED, f"the ID token was not accepted: {error}")
        return f"Bearer {token.strip().rpartition('.')[0]}.{_REMOVED}"


def account_of(authorization: str) -> str:
    """Return the name of the service account in a header that was admitted."""
    email = str(jwt.decode(authorization.removeprefix("Bearer "), verify=False)["email"])
    return email.partition("@")[0]
