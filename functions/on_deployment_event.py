"""Tell people in a chat what happened to a deployment."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import functions_framework
from cloudevents.http import CloudEvent

from shared import logs
from shared.domain.announcement import decode
from shared.domain.chat import message_of
from shared.errors import Refused, Unavailable
from shared.ports import ChatPorts
from shared.wiring import chat_ports


def tell(data: bytes, attributes: Mapping[str, str], ports: ChatPorts) -> str:
    """Post the event once; return what became of it. Unavailable: Pub/Sub delivers again.

    The claim keeps two deliveries of one event apart. It is given back where posting may
    succeed later; whoever dies between posting and saying so posts twice rather than never.
    """
    try:
        told = decode(data, attributes)
    except ValueError as why:
        logs.log("event not understood", severity="ERROR", why=str(why))
        return "not understood"
    text = message_of(told, ports.dashboard_url)
    if text is None:
        return "not for people"
    if not ports.posts.claim(told.id, ports.clock.now()):
        return "known"
    logs.log("chat", id=told.id, text=text)
    try:
        ports.chat.post(text)
    except Unavailable:
        ports.posts.give_back(told.id)
        raise
    except Refused as why:
        # Delivered again it would be refused again.
        logs.log("chat message refused", severity="ERROR", id=told.id, why=str(why))
    ports.posts.posted(told.id)
    return "told"


@functions_framework.cloud_event
def on_deployment_event(event: CloudEvent) -> None:
    """Receive a Pub/Sub message (the topic `deployment-events`)."""
    message: dict[str, Any] = event.data["message"]
    attributes = message.get("attributes") or {}
    outcome = tell(base64.b64decode(message.get("data", "")), attributes, chat_ports())
    logs.log("event handled", id=attributes.get("ce-id"), outcome=outcome)
