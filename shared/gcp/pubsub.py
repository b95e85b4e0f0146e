"""Publishing: the training-completed message, and the ones that can never succeed."""

from __future__ import annotations

from collections.abc import Mapping

from google.cloud.pubsub_v1 import PublisherClient

PUBLISH_TIMEOUT_S = 60


class Topic:
    """One topic of the project."""

    def __init__(self, client: PublisherClient, project: str, topic: str) -> None:
        self._client = client
        self._path = f"projects/{project}/topics/{topic}"

    def publish(self, data: bytes, attributes: Mapping[str, str]) -> str:
        """Publish, wait for the acknowledgement, return the message's id.

        A repeat makes a second message; every reader of these topics knows what it has seen.
        """
        published = self._client.publish(self._path, data, **attributes)
        return str(published.result(timeout=PUBLISH_TIMEOUT_S))
