"""The prediction API of one revision, called as an application would call it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import requests

from shared import tracing
from shared.errors import Unavailable

TIMEOUT_S = 60


class HttpPredictions:
    """Calls `/health` and `/recommend-batch` on a revision's own URL."""

    def __init__(self) -> None:
        self._session = requests.Session()

    def health(self, url: str, timeout_s: float = TIMEOUT_S) -> tuple[int, Mapping[str, Any]]:
        """Return status code and body of GET /health; Unavailable without an answer in time."""
        return self._call("GET", f"{url}/health", timeout_s)

    def recommend(
        self, url: str, key: str, customers: Sequence[str], top_k: int
    ) -> tuple[int, Mapping[str, Any]]:
        """Return status code and body of POST /recommend-batch; Unavailable without an answer."""
        return self._call(
            "POST",
            f"{url}/recommend-batch",
            json={"customer_ids": list(customers), "top_k": top_k},
            headers={"Authorization": f"Bearer {key}", **tracing.outgoing()},
        )

    def _call(
        self, method: str, url: str, timeout_s: float = TIMEOUT_S, **arguments: Any
    ) -> tuple[int, Mapping[str, Any]]:
        try:
            # A redirect would carry customers, or the key, where no service of ours is.
            answer = self._session.request(
                method, url, timeout=timeout_s, allow_redirects=False, **arguments
            )
        except requests.RequestException as error:
            # The type only: the text may quote the request.
            raise Unavailable(f"{url} did not answer: {type(error).__name__}") from error
        try:
            body = answer.json()
        except (ValueError, RecursionError):
            body = {}
        return answer.status_code, body if isinstance(body, dict) else {}
