"""What the browser tests need done behind the pages: training runs, and versions that serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from tests.e2e.world import World, message, until

# No minimum of instances: what does not serve costs no memory here.
_DECLARED = {
    "image": "turnout-serving",
    "service_account": "serving",
    "memory": "2Gi",
    "min_instances": 0,
    "golden_customers": ["C000", "C007"],
    "policy": {
        "when": "if_better",
        "strategy": "immediate",
        "over": "6s",
        "canary": {"judge": "off"},
    },
}
# Whose answers or model no page's story looks at: without TensorFlow a version starts at once.
_STAND_INS = ("steps", "halt", "board", "tabs", "plain", "lost")
MODELS = {
    **dict.fromkeys(("first", "keys", "broken"), _DECLARED),
    **{name: {**_DECLARED, "image": "none"} for name in _STAND_INS},
}
DEADLINE_MS = 150_000


class Story:
    """A local cloud with its dashboard."""

    def __init__(self, world: World, artifacts: Path, url: str) -> None:
        self.world = world
        self.url = url
        self._artifacts = artifacts

    def trained(
        self, model: str, run: int, kind: str = "good", recall: float = 0.47, **deploy: Any
    ) -> str:
        """Publish a training run as training does; only listed, unless `deploy` says more."""
        uri = self.world.upload(self._artifacts / kind, model, run)
        sent = message(model, run, uri, **(deploy or {"when": "off"}))
        sent["metrics"] = {**sent["metrics"], "recall_at_100": recall}
        return self.world.outcome(self.world.publish(sent))

    def live(self, model: str, run: int = 1, recall: float = 0.46) -> None:
        """Have a run in production, without the pages; once for each."""
        deployment_id = f"{model}-{run}-ready"
        if self.world.deployment(deployment_id) is None:
            self.trained(model, run, recall=recall, when="always", request_id="ready")
        self.world.ended(deployment_id, "active")
        self.world.unlocked(model)

    def serves(self, model: str, **split: int) -> None:
        """Wait until exactly that split is served."""

        def right() -> bool:
            try:
                self.world.serves(model, **split)
            except AssertionError:
                return False
            return True

        until(right, f"{model} serves {split}")


def becomes(page: Page, words: str) -> None:
    """Wait until the page's heading says `words`, without loading it again."""
    expect(page.get_by_role("heading", level=1)).to_have_text(words, timeout=DEADLINE_MS)
