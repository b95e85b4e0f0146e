"""Pages and API answers, when everything stored is hostile: nothing runs, nothing leads away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest

from serving.app import create_app
from serving.express import Express
from serving.keys import ApiKeys
from serving.model_slot import EMPTY, ModelSlot
from serving.service import Service
from serving.usage import Usage
from shared import wiring
from shared.domain.deployment import Status, Step, StepName, StepState
from shared.gcp.firestore import FirestoreKeys
from tests.dashboards import MODEL, NOW, Dashboard, firestore_here
from tests.unit.test_serving_app import SETTINGS as SERVING
from tests.unit.test_serving_app import NoUsage, OneKey
from tests.unit.test_serving_express import working_slot

EVIL = (
    "\"><script>alert(1)</script><img src=x onerror=alert(1)>'--><a href=javascript:alert(1)>x</a>"
    "{{7919*6007}}{% raw %}${7919*6007}"
)
DEPLOYMENTS = (f"{MODEL}-41-auto", f"{MODEL}-42-auto", f"{MODEL}-43-auto")
PATHS = (
    "/",
    "/live",
    *(
        f"/models/{MODEL}{page}"
        for page in (
            "",
            "/live",
            "/compare?run=42",
            "/metrics",
            "/audit",
            "/api",
            "/health",
            "/deploy?run=43",
            "/rollback",
            "/logs",
        )
    ),
    *(
        f"/deployments/{one}{page}"
        for one in DEPLOYMENTS
        for page in ("", "/live", "/cancel", "/rollback", "/skip")
    ),
    "/models/%3Cscript%3E",
    "/deployments/%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
    "/nothing/%3Cscript%3E?x=%3Cscript%3E",
)


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """A model of which every text that somebody else wrote is hostile."""
    with (
        pytest.MonkeyPatch.context() as patch,
        firestore_here(tmp_path_factory.mktemp("firestore"), patch) as client,
    ):
        patch.setenv("TURNOUT_PROJECT", "shop")
        wiring.settings.cache_clear()
        made = Dashboard(client)
        made.declare()
        evil = {
            "feature_config": {"id": EVIL, "name": EVIL},
            "dataset": {"name": EVIL, "version": 3},
            "artifact_uri": f"gs://training/{EVIL}",
        }
        live = made.live(41, deployed_by=EVIL)
        rolling = made.rolling(42)
        made.run(43)
        for run in (41, 42, 43):
            client.document(f"training_runs/{MODEL}-{run}").update(evil)
        refused = Step(StepState.FAILED, NOW, NOW, detail=EVIL, error=EVIL)
        for found in (live, rolling):
            changed = replace(found, reason=EVIL, artifact_uri=f"gs://training/{EVIL}")
            made.state.change(MODEL, lambda book, to=changed: book.put(to))
        failed = made._entered(43, MODEL, deployed_by=EVIL)
        failed = failed.with_step(StepName.PREPARE_MODEL, refused).become(Status.FAILED, NOW, EVIL)
        made.state.change(MODEL, lambda book: book.put(failed))
        FirestoreKeys(client).create(MODEL, EVIL, EVIL, None, 60)
        yield made
    wiring.settings.cache_clear()


class Seen(HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))


@pytest.mark.parametrize("path", PATHS)
def test_page_shows_hostile_text_as_text_and_links_to_pages_only(
    dashboard: Dashboard, path: str
) -> None:
    answer = dashboard.ask("GET", path)
    assert answer.status_code in (200, 303, 404, 409), answer.status_code
    page = answer.get_data(as_text=True)
    for tag, attributes in Seen(page).elements:
        assert tag not in ("iframe", "object", "embed", "base", "style")
        assert not any(name.startswith("on") for name in attributes), attributes
        assert "style" not in attributes
        assert tag != "script" or attributes.get("src", "").startswith("/assets/")
        assert tag != "img" or "onerror" not in attributes
        for name in ("href", "src", "action", "formaction"):
            if name in attributes:
                there = urlsplit(attributes[name])
                assert there.scheme in ("", "https", "data"), attributes
                assert there.scheme != "data" or tag == "link"
                known = ("", "console.cloud.google.com", f"model-serving-{MODEL}.test")
                assert there.netloc in known, attributes
    assert "<script>alert" not in page
    assert str(7919 * 6007) not in page


def test_hostile_text_did_reach_the_pages(dashboard: Dashboard) -> None:
    shown = [unescape(dashboard.ask("GET", path).get_data(as_text=True)) for path in PATHS]
    assert sum(EVIL in page for page in shown) >= 5


@pytest.mark.parametrize(
    "path", ["/api/models/", f"/api/deployments/{MODEL}-43-auto/", f"/api/models/{MODEL}/audit/"]
)
def test_answer_of_the_api_is_nothing_but_json_to_a_browser(
    dashboard: Dashboard, path: str
) -> None:
    answer = dashboard.ask("GET", path)
    assert answer.mimetype == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", f"/models/{MODEL}", "/api/models/", "/nothing"])
def test_every_answer_of_the_dashboard_asks_for_tls_from_now_on(
    dashboard: Dashboard, path: str
) -> None:
    assert "max-age=31536000" in dashboard.ask("GET", path).headers["Strict-Transport-Security"]


@pytest.mark.parametrize("short_way", [True, False], ids=["the short way", "Flask"])
@pytest.mark.parametrize("slot", [working_slot(), ModelSlot(EMPTY)], ids=["serving", "empty"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("GET", "/openapi.json"),
        ("POST", "/recommend"),
        ("POST", "/recommend-batch"),
        ("GET", "/<script>"),
        ("DELETE", "/recommend"),
    ],
)
@pytest.mark.parametrize("key", ["the-key-of-this-test", "another"])
def test_every_answer_of_the_container_is_kept_by_nobody_and_taken_for_what_it_is(
    short_way: bool, slot: ModelSlot, method: str, path: str, key: str
) -> None:
    service = Service("v3", slot, ApiKeys("movies", OneKey()), Usage(NoUsage()))
    app = create_app(SERVING, slot, service, lambda: False)
    if short_way:
        app.wsgi_app = Express(service, app.wsgi_app, lambda: False)  # type: ignore[method-assign]
    answer = app.test_client().open(
        path,
        method=method,
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        data=b'{"customer_id": "C1"}' if method == "POST" else None,
    )
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.mimetype in ("application/json", "application/problem+json")
    if method == "GET":
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert "max-age" in answer.headers["Strict-Transport-Security"]
    assert "<script>" not in answer.get_data(as_text=True)
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert "Server" not in answer.headers
