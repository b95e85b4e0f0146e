"""Who is asking: IAM behind Cloud Run, Identity-Aware Proxy, and this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import flask
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.auth import crypt, jwt

from functions.dashboard.errors import NotAllowed, NotIdentified
from functions.dashboard.identity import Who, identifier, role_of
from functions.dashboard.settings import DashboardSettings, IdentityMode
from functions.dashboard.tokens import AGAIN_AFTER_S, KEPT_S, Signatures
from shared.errors import Unavailable
from tests.dashboards import SETTINGS, SIGNER, Signer

ON_CLOUD_RUN = replace(SETTINGS, on_cloud_run=True)
IAP_AUDIENCE = "/projects/123/locations/europe-central2/services/dashboard"
IAP = DashboardSettings(
    mode=IdentityMode.IAP,
    admins=frozenset({"domain:example.com"}),
    audiences=frozenset({IAP_AUDIENCE}),
)
LOCAL = DashboardSettings(mode=IdentityMode.LOCAL)


def identify(
    settings: DashboardSettings,
    headers: Mapping[str, str],
    certs: Mapping[str, str] = SIGNER.certs,
    peer: str = "127.0.0.1",
    host: str = "127.0.0.1:8080",
) -> Who:
    """Identify the sender of one request."""
    app = flask.Flask(__name__)
    with app.test_request_context(
        "/models/movies", headers={"Host": host, **headers}, environ_base={"REMOTE_ADDR": peer}
    ):
        return identifier(settings, lambda _: certs)(flask.request)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class TestIam:
    def test_token_that_cloud_run_checked_is_believed_on_cloud_run_only(self) -> None:
        checked = bearer(SIGNER.checked("ada@example.com"))
        assert identify(ON_CLOUD_RUN, checked).role == "admin"
        with pytest.raises(NotIdentified):
            identify(SETTINGS, checked)

    def test_checked_token_that_expired_or_is_for_another_service_is_refused(self) -> None:
        past = int(time.time()) - 3600
        for claims in ({"exp": past}, {"aud": "https://other.test"}, {"iss": "https://evil.test"}):
            with pytest.raises(NotIdentified):
                identify(ON_CLOUD_RUN, bearer(SIGNER.checked("ada@example.com", **claims)))

    def test_signed_token_on_cloud_run_is_verified_here(self) -> None:
        assert identify(ON_CLOUD_RUN, bearer(SIGNER.token("ada@example.com"))).role == "admin"
        with pytest.raises(NotIdentified):
            identify(ON_CLOUD_RUN, bearer(Signer().token("ada@example.com")))

    def test_header_that_google_checked_wins_over_the_one_it_did_not(self) -> None:
        headers = {
            "X-Serverless-Authorization": f"Bearer {SIGNER.checked('vera@example.com')}",
            **bearer(SIGNER.checked("ada@example.com")),
        }
        assert identify(ON_CLOUD_RUN, headers).email == "vera@example.com"

    def test_address_is_compared_without_its_case(self) -> None:
        who = identify(SETTINGS, bearer(SIGNER.token("Ada@Example.com")))
        assert (who.email, who.role) == ("ada@example.com", "admin")

    def test_signed_token_without_a_configured_audience_is_refused(self) -> None:
        with pytest.raises(NotIdentified, match="audience"):
            identify(
                replace(SETTINGS, audiences=frozenset()), bearer(SIGNER.token("ada@example.com"))
            )


class IapSigner:
    """Identity-Aware Proxy's own kind of signature: ES256."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.certs = {"iap": public.decode()}
        self._signer = crypt.ES256Signer.from_string(pem, key_id="iap")

    def headers(self, **claims: object) -> dict[str, str]:
        now = int(time.time())
        good = {
            "iss": "https://cloud.google.com/iap",
            "aud": IAP_AUDIENCE,
            "email": "ada@example.com",
            "hd": "example.com",
            "iat": now,
            "exp": now + 600,
        }
        token = jwt.encode(self._signer, {**good, **claims}).decode()
        return {"X-Goog-IAP-JWT-Assertion": token}


class TestIap:
    signer = IapSigner()

    def test_signed_header_identifies_its_owner(self) -> None:
        who = identify(IAP, self.signer.headers(), self.signer.certs)
        assert (who.email, who.role) == ("ada@example.com", "admin")

    @pytest.mark.parametrize(
        "claims",
        [
            {"exp": 1},
            {"aud": "/projects/123/locations/europe-central2/services/other"},
            {"iss": "https://accounts.google.com"},
            {"email": None},
        ],
        ids=["expired", "another service", "another issuer", "no address"],
    )
    def test_header_that_is_not_for_us_is_refused(self, claims: dict[str, object]) -> None:
        with pytest.raises(NotIdentified):
            identify(IAP, self.signer.headers(**claims), self.signer.certs)

    def test_forged_header_is_refused(self) -> None:
        with pytest.raises(NotIdentified):
            identify(IAP, IapSigner().headers(), self.signer.certs)

    def test_unsigned_address_is_not_read(self) -> None:
        plain = {"X-Goog-Authenticated-User-Email": "accounts.google.com:ada@example.com"}
        with pytest.raises(NotIdentified):
            identify(IAP, plain, self.signer.certs)

    def test_id_token_does_not_pass_for_the_proxys_header(self) -> None:
        with pytest.raises(NotIdentified):
            identify(IAP, bearer(SIGNER.token("ada@example.com")), SIGNER.certs)


class TestLocal:
    @pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080"])
    def test_loopback_is_the_developer(self, host: str) -> None:
        who = identify(LOCAL, {}, host=host)
        assert (who.email, who.role) == ("developer@localhost", "admin")
        assert who.source == "dashboard 127.0.0.1"

    @pytest.mark.parametrize(
        ("peer", "host", "headers"),
        [
            ("192.0.2.7", "127.0.0.1:8080", {}),
            ("127.0.0.1", "rebound.example.com", {}),
            ("127.0.0.1", "localhost.example.com:8080", {}),
            ("127.0.0.1", "127.0.0.1.example.com", {}),
            ("127.0.0.1", "127.0.0.1:8080", {"X-Forwarded-For": "192.0.2.7"}),
        ],
        ids=["peer", "rebound name", "localhost as a prefix", "address as a prefix", "forwarded"],
    )
    def test_anything_from_elsewhere_is_refused(
        self, peer: str, host: str, headers: dict[str, str]
    ) -> None:
        with pytest.raises(NotIdentified):
            identify(LOCAL, headers, peer=peer, host=host)

    def test_on_cloud_run_it_is_refused_at_start_and_by_request(self) -> None:
        with pytest.raises(ValueError, match="not on Cloud Run"):
            DashboardSettings.from_environment({"TURNOUT_IDENTITY": "local", "K_SERVICE": "d"})
        with pytest.raises(NotIdentified):
            identify(replace(LOCAL, on_cloud_run=True), {})


class TestRoles:
    @pytest.mark.parametrize(
        ("email", "hosted_domain", "role"),
        [
            ("ada@example.com", "", "admin"),
            ("new@corp.example", "corp.example", "deployer"),
            ("new@corp.example", "", "viewer"),
            ("new@corp.example", "other.example", "viewer"),
            ("bot@project.iam.gserviceaccount.com", "", "deployer"),
            ("bot@other.iam.gserviceaccount.com", "project.iam.gserviceaccount.com", "viewer"),
        ],
    )
    def test_largest_listed_role_counts_and_a_domain_is_googles_word(
        self, email: str, hosted_domain: str, role: str
    ) -> None:
        settings = DashboardSettings(
            admins=frozenset({"ada@example.com"}),
            deployers=frozenset(
                {"ada@example.com", "domain:corp.example", "domain:project.iam.gserviceaccount.com"}
            ),
        )
        assert role_of(email, hosted_domain, settings) == role

    def test_with_a_list_of_viewers_everybody_else_is_refused(self) -> None:
        settings = DashboardSettings(viewers=frozenset({"vera@example.com"}))
        assert role_of("vera@example.com", "", settings) == "viewer"
        with pytest.raises(NotAllowed):
            role_of("eve@example.com", "", settings)


class TestSource:
    @pytest.mark.parametrize(
        ("hops", "forwarded", "source"),
        [
            (1, "203.0.113.9", "dashboard 203.0.113.9"),
            (1, "10.0.0.1, 203.0.113.9", "dashboard 203.0.113.9"),
            (2, "10.0.0.1, 203.0.113.9, 198.51.100.4", "dashboard 203.0.113.9"),
            (1, "<script>", "dashboard unknown address"),
            (1, "2001:db8::1", "dashboard 2001:db8::1"),
            (0, "10.0.0.1", "dashboard 127.0.0.1"),
        ],
    )
    def test_only_what_google_appended_is_believed(
        self, hops: int, forwarded: str, source: str
    ) -> None:
        settings = replace(SETTINGS, forwarded_hops=hops)
        headers = {**bearer(SIGNER.token("ada@example.com")), "X-Forwarded-For": forwarded}
        assert identify(settings, headers).source == source


class TestKeysOfGoogle:
    def test_made_up_key_ids_do_not_make_it_fetch_each_time(self) -> None:
        fetched, now = [], [0.0]

        def fetch(url: str) -> Mapping[str, str]:
            fetched.append(url)
            return SIGNER.certs

        signatures = Signatures("https://keys.test", fetch, lambda: now[0])
        audience = SETTINGS.audiences
        assert signatures.check(SIGNER.token("a@example.com"), audience)["email"]
        stranger = crypt.RSASigner.from_string(_new_key(), key_id="made-up")
        made_up = jwt.encode(stranger, {"aud": sorted(audience)[0]}).decode()
        for _ in range(5):
            with pytest.raises(NotIdentified):
                signatures.check(made_up, audience)
        assert len(fetched) == 1
        now[0] = AGAIN_AFTER_S + 1
        with pytest.raises(NotIdentified):
            signatures.check(made_up, audience)
        assert len(fetched) == 2
        now[0] += KEPT_S + 1
        signatures.check(SIGNER.token("a@example.com"), audience)
        assert len(fetched) == 3

    def test_keys_that_cannot_be_fetched_are_no_verdict_on_the_caller(self) -> None:
        def fetch(_: str) -> Mapping[str, str]:
            raise Unavailable("no keys just now")

        with pytest.raises(Unavailable):
            Signatures("https://keys.test", fetch).check(
                SIGNER.token("a@example.com"), SETTINGS.audiences
            )


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TURNOUT_IDENTITY": "none"}, "iam, iap or local"),
        ({"TURNOUT_IDENTITY": "iap"}, "TURNOUT_IAP_AUDIENCE"),
        ({"TURNOUT_ADMINS": "ada"}, "TURNOUT_ADMINS"),
        ({"TURNOUT_ADMINS": "domain:"}, "TURNOUT_ADMINS"),
        ({"TURNOUT_SECRET": ""}, "TURNOUT_SECRET"),
        ({"TURNOUT_SECRET": "guessable"}, "TURNOUT_SECRET"),
        ({"TURNOUT_TOOLS": "kubectl"}, "gcloud or turnout"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(
    environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DashboardSettings.from_environment({"TURNOUT_SECRET": "s" * 32, **environment})


def test_settings_with_only_a_secret_are_iam_with_nobody_beyond_viewer() -> None:
    settings = DashboardSettings.from_environment(
        {"K_SERVICE": "dashboard", "TURNOUT_SECRET": "s" * 32}
    )
    assert settings.mode is IdentityMode.IAM
    assert settings.forwarded_hops == 1
    assert role_of("ada@example.com", "example.com", settings) == "viewer"


def _new_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
