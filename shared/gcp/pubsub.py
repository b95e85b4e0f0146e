"""Publishing: the training-completed message, dead letters, and what happened."""

from __future__ import annotations

from collections.abc import Mapping

from google.cloud.pubsub_v1 import PublisherClient

PUBLISH_TIMEOUT_S = 60


class Topic:
    """One topic of the project."""

    def __init__(
        self,
        client: PublisherClient,
        project: str,
        topic: str,
        timeout_s: float = PUBLISH_TIMEOUT_S,
    ) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._path = f"projects/{project}/topics/{topic}"

    def publish(self, data: bytes, attributes: Mapping[str, str]) -> str:
        """Publish, wait for the acknowledgement, return the message's id.

        TimeoutError without one in time; the client may publish it later all the same.
        A repeat makes a second message; every reader of these topics knows what it has seen.
        """
        published = self._client.publish(self._path, data, **attributes)
        return str(published.result(timeout=self._timeout_s))
