"""The local identity provider: signs and checks the ID tokens that Google would."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt

ISSUER = "https://accounts.google.com"
LIFETIME_S = 3600


class Identity:
    """Mints RS256 ID tokens for service accounts and verifies them; the key lives in `folder`."""

    def __init__(self, folder: Path) -> None:
        path = folder / "identity.pem"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _write_private(path, _new_key())
        pem = path.read_bytes()
        key = serialization.load_pem_private_key(pem, password=None)
        self.public_key = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._folder = folder
        self._signer = crypt.RSASigner.from_string(pem, key_id="local")

    def secret(self, name: str) -> str:
        """Return a random secret that stays the same, as Secret Manager would keep it."""
        path = self._folder / f"{name}.secret"
        if not path.exists():
            _write_private(path, secrets.token_hex(32).encode())
        return path.read_text()

    def mint(self, audience: str, email: str) -> str:
        """Return an ID token of one hour for `email`, to be shown to `audience` (a URL)."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": audience,
            "sub": email,
            "email": email,
            "email_verified": True,
            "iat": now,
            "exp": now + LIFETIME_S,
        }
        return jwt.encode(self._signer, claims).decode()

    def verify(self, token: str, audience: str | None = None) -> dict[str, Any]:
        """Return the claims of `token`; ValueError when forged, expired or for someone else."""
        claims = jwt.decode(token, certs={"local": self.public_key}, audience=audience)
        if claims.get("iss") != ISSUER:
            raise ValueError(f"token of issuer {claims.get('iss')!r}, expected {ISSUER!r}")
        return dict(json.loads(json.dumps(claims)))


def _new_key() -> bytes:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _write_private(path: Path, content: bytes) -> None:
    beside = path.with_suffix(".new")
    beside.touch(mode=0o600)
    beside.write_bytes(content)
    beside.replace(path)
