"""What people do: the same use cases as the functions, under a verified name."""

from __future__ import annotations

import hmac
import json
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Any

from pydantic import BaseModel, ValidationError

from functions import cancel as cancelling
from functions import roll_back as rolling_back
from functions.announce import announce
from functions.dashboard.errors import Changed
from functions.dashboard.identity import Who
from functions.dashboard.records import Records
from functions.dashboard.schemas import (
    CreateDeployment,
    CreateKey,
    DeploymentRequested,
    KeyView,
    NewKeyView,
)
from functions.dashboard.views import etag_of, key_view
from shared import logs
from shared.domain import model as moves
from shared.domain.deployment import Deployment, Event
from shared.domain.model import Book
from shared.domain.quality_gate import DeployWhen
from shared.domain.rollout import parse_duration, plan_rollout
from shared.errors import NotFound, Refused
from shared.gcp.firestore import new_key
from shared.messages import (
    Cancel,
    Deploy,
    ModelDeclaration,
    RollBack,
    TrainingCompleted,
    explain,
)
from shared.ports import Ports, Topic
from shared.requesting import message_to_deploy

KEYS_AN_HOUR = 10
NO_REASON = "no reason given"
Move = Callable[[Book, str, datetime, str, str, str], Deployment]


@dataclass(frozen=True)
class Repeatable:
    """A request with an Idempotency-Key: which one it is, and what it asks for, as digests."""

    request: str
    content: str


class Actions:
    """Everything that changes something. `topic` is the training-completed topic."""

    def __init__(self, ports: Ports, records: Records, topic: Topic, secret: str) -> None:
        self._ports = ports
        self._records = records
        self._topic = topic
        self._secret = secret.encode()

    def deploy(
        self, model_id: str, asked: CreateDeployment, who: Who, idempotency_key: str | None = None
    ) -> DeploymentRequested:
        """Publish the training-completed message of a known run: there is one way in.

        A repeat with the same `idempotency_key` carries the same request id, which finds
        the first deployment. Refused where the run or the rollout cannot be right.
        """
        declaration = self._declared(model_id)
        run = self._ports.state.run(f"{model_id}-{asked.training_run}")
        if run is None:
            raise NotFound(f"{model_id!r} has no training run {asked.training_run}")
        _check_plan(asked, declaration)
        repeatable = _repeatable("deploy", model_id, asked, who, idempotency_key)
        if repeatable:
            kept = self._records.remember(
                repeatable.request, repeatable.content, self._ports.clock.now()
            )
            if kept.answer:
                return DeploymentRequested(**kept.answer)
        derived = f"key-{repeatable.request[:32]}" if repeatable else secrets.token_hex(8)
        deploy = Deploy(
            when=DeployWhen.ALWAYS,
            strategy=asked.strategy,
            steps_percent=tuple(asked.steps_percent),
            over=asked.over,
            requested_by=who.email,
            request_id=asked.request_id or derived,
        )
        message = message_to_deploy(run, deploy)
        deployment_id = _checked(message).deployment_id
        message_id = self._topic.publish(json.dumps(message).encode(), {})
        answer = {"deployment_id": deployment_id, "message_id": message_id}
        if repeatable:
            answer = dict(self._records.remember_answer(repeatable.request, answer))
        self._note(model_id, who, "deploy asked", f"run {asked.training_run}", deployment_id)
        return DeploymentRequested(**answer)

    def roll_back(
        self,
        deployment_id: str,
        why: str,
        who: Who,
        if_match: str | None = None,
        check: bool = True,
    ) -> str:
        """Give all traffic to this version now, over any rollout; Changed where it changed.

        `check` asks first whether it is ready and healthy. Returns the id of what takes the
        traffic: another deployment's where this one's revision is gone, so that its artifacts
        are deployed again.
        """
        deployment = self._ports.state.deployment(deployment_id)
        command = RollBack(
            model_id=deployment.model_id,
            version=deployment.version,
            check=check,
            reason=why or NO_REASON,
        )
        unchanged = _unchanged(deployment_id, if_match)
        done = rolling_back.go_back(command, who.email, self._ports, who.source, unchanged)
        return str(done["deployment_id"])

    def cancel(self, deployment_id: str, why: str, who: Who, if_match: str | None = None) -> None:
        """Stop a rollout that runs or waits; its traffic goes back where it was."""
        command = Cancel(deployment_id=deployment_id, reason=why or NO_REASON)
        check = _unchanged(deployment_id, if_match)
        cancelling.stop(command, who.email, self._ports, who.source, check)

    def pause(self, deployment_id: str, why: str, who: Who, if_match: str | None = None) -> None:
        """Keep a rollout at its stage."""
        self._say(moves.pause, deployment_id, why, who, if_match)

    def resume(self, deployment_id: str, why: str, who: Who, if_match: str | None = None) -> None:
        """Let a paused rollout go on."""
        self._say(moves.resume, deployment_id, why, who, if_match)

    def approve(
        self,
        deployment_id: str,
        why: str,
        who: Who,
        if_match: str | None = None,
        percent: int | None = None,
    ) -> None:
        """Let a rollout go on to its next stage now; `percent` is the share that they saw."""
        self._say(partial(moves.approve, percent=percent), deployment_id, why, who, if_match)

    def skip(self, deployment_id: str, why: str, who: Who, if_match: str | None = None) -> None:
        """Let a rollout go on to all of the traffic now."""
        self._say(moves.skip, deployment_id, why, who, if_match)

    def announce(self) -> None:
        """Publish what was recorded, where something was; never raises."""
        if self._ports.state.take_news():
            announce(self._ports)

    def create_key(
        self, model_id: str, asked: CreateKey, who: Who, idempotency_key: str | None = None
    ) -> NewKeyView:
        """Create an API key and return it, the only time: nowhere is it stored.

        With an `idempotency_key` it is derived from that, the shared secret and a stored
        random nonce: 256 bits that a repeat within a day finds again, and nobody else.
        """
        self._declared(model_id)
        now = self._ports.clock.now()
        repeatable = _repeatable("key", model_id, asked, who, idempotency_key)
        plain_key = secrets.token_urlsafe(32)
        if repeatable:
            kept = self._records.remember(repeatable.request, repeatable.content, now)
            plain_key = self._derived(kept.nonce, who, str(idempotency_key))
            if kept.answer:
                known = self._records.key(kept.answer["id"])
                return NewKeyView(**key_view(known, now).model_dump(), key=plain_key)
        self._records.count(f"keys-{model_id}", KEYS_AN_HOUR, now)
        lifetime_s = asked.days * 86400 if asked.days else None
        made = new_key(
            model_id, asked.name, who.email, lifetime_s, plain_key, asked.requests_per_minute
        )
        key_id = made[0]
        event = self._event(
            model_id, who, "key created", f"{asked.name} ({made[1]['key_prefix']}…)"
        )
        self._records.create_key(made, event)
        if repeatable:
            self._records.remember_answer(repeatable.request, {"id": key_id})
        shown = key_view(self._records.key(key_id), now)
        logs.log("key created", model_id=model_id, key_prefix=shown.key_prefix, by=who.email)
        return NewKeyView(**shown.model_dump(), key=plain_key)

    def revoke_key(self, key_id: str, who: Who) -> KeyView:
        """Make a key invalid; serving containers notice within their cache's seconds."""
        key = self._records.key(key_id)
        event = self._event(
            key["model_id"], who, "key revoked", f"{key['name']} ({key['key_prefix']}…)"
        )
        if key["is_active"]:
            self._records.revoke_key(key_id, event)
            logs.log("key revoked", model_id=key["model_id"], key_prefix=key["key_prefix"])
        return key_view({**key, "is_active": False}, self._ports.clock.now())

    def _say(
        self, move: Move, deployment_id: str, why: str, who: Who, if_match: str | None
    ) -> None:
        deployment = self._ports.state.deployment(deployment_id)
        check, now = _unchanged(deployment_id, if_match), self._ports.clock.now()

        def checked(book: Book) -> Deployment:
            check(book)
            return move(book, deployment_id, now, who.email, why or NO_REASON, who.source)

        self._ports.state.change(deployment.model_id, checked)

    def _declared(self, model_id: str) -> ModelDeclaration:
        declaration = self._ports.state.declaration(model_id)
        if declaration is None:
            raise NotFound(f"there is no model {model_id!r}")
        return declaration

    def _derived(self, nonce: str, who: Who, idempotency_key: str) -> str:
        material = "\n".join(("api key", nonce, who.email, idempotency_key))
        digest = hmac.digest(self._secret, material.encode(), "sha256")
        return urlsafe_b64encode(digest).decode().rstrip("=")

    def _note(self, model_id: str, who: Who, action: str, why: str, deployment_id: str) -> None:
        self._records.note(self._event(model_id, who, action, why, deployment_id))

    def _event(
        self, model_id: str, who: Who, action: str, why: str, deployment_id: str = ""
    ) -> Event:
        return Event(
            deployment_id,
            model_id,
            self._ports.clock.now(),
            who.email,
            action,
            why,
            source=who.source,
        )


def _unchanged(deployment_id: str, if_match: str | None) -> moves.Check:
    """Changed unless the deployment still has that etag; `*` and None match any."""

    def check(book: Book) -> None:
        deployment = book.deployment(deployment_id)
        if if_match not in (None, "*", etag_of(deployment)):
            raise Changed(deployment_id, deployment.status)

    return check


def _check_plan(asked: CreateDeployment, declaration: ModelDeclaration) -> None:
    policy = declaration.policy
    try:
        plan_rollout(
            asked.strategy or policy.strategy,
            asked.steps_percent or policy.steps_percent,
            parse_duration(asked.over or policy.over),
        )
    except ValueError as error:
        raise Refused(f"steps_percent, over: {error}") from None


def _checked(message: dict[str, Any]) -> TrainingCompleted:
    try:
        return TrainingCompleted.model_validate(message)
    except ValidationError as error:
        raise Refused(explain(error)) from None


def _repeatable(
    operation: str, model_id: str, asked: BaseModel, who: Who, key: str | None
) -> Repeatable | None:
    """Which request it is: the key means nothing outside its caller, model and operation."""
    if key is None:
        return None
    request = "\n".join((operation, model_id, who.email, key))
    return Repeatable(_digest(request), _digest(asked.model_dump_json()))


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
