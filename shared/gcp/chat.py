"""A chat room behind an incoming webhook: Slack, Google Chat and Mattermost take the same."""

from __future__ import annotations

import requests

from shared.errors import Refused, Unavailable

TIMEOUT_S = 10
TRY_AGAIN = frozenset({408, 425, 429})


class Webhook:
    """Posts `{"text": ...}` to an URL, which is a secret; to no URL it posts nothing."""

    def __init__(self, url: str) -> None:
        self._url = url

    def post(self, text: str) -> None:
        """Post a message; Refused where it can never succeed, Unavailable where it may."""
        if not self._url:
            return
        try:
            status = self._status_of(text)
        except requests.RequestException as error:
            # The type only: the text quotes the URL.
            raise Unavailable(f"the webhook did not answer: {type(error).__name__}") from None
        if status >= 500 or status in TRY_AGAIN:
            raise Unavailable(f"the webhook answered {status}")
        if status >= 300:
            raise Refused(f"the webhook answered {status}; is TURNOUT_CHAT_WEBHOOK still right?")

    def _status_of(self, text: str) -> int:
        # No credentials or proxy of the environment go along, and no body is read: only the
        # status says anything, and a body may never end.
        with requests.Session() as session:
            session.trust_env = False
            with session.post(
                self._url,
                json={"text": text},
                timeout=TIMEOUT_S,
                allow_redirects=False,
                stream=True,
            ) as answer:
                return answer.status_code
