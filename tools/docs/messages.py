"""docs/reference/messages.md: the two topics' messages, from their models and schemas."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from shared.config import DEAD_LETTER_TOPIC, EVENTS_DEAD_LETTER_TOPIC, EVENTS_TOPIC, TRAINING_TOPIC
from shared.domain import announcement
from shared.domain.chat import LINES
from shared.messages import TrainingCompleted
from tools.docs.markdown import code, first_paragraph, generated, table
from tools.docs.schema import default_of, limits_of, type_of

ROOT = Path(__file__).parents[2]
_MESSAGE = re.compile(r"message (\w+) \{")
_FIELD = re.compile(r".+ (\w+) = \d+;$")
_KIND = re.compile(r"^ +([\w<>, ]+?) (\w+) = \d+;$", re.MULTILINE)


def page() -> str:
    """Return the page."""
    return "\n".join(
        [
            generated(
                "Messages",
                "shared/messages.py and the two .proto files",
                f"Two topics: `{TRAINING_TOPIC}` is the only way in, `{EVENTS_TOPIC}` tells what "
                "happened. Both carry JSON under a Protocol Buffers schema that is attached to "
                "the topic: Pub/Sub refuses at publish what does not fit it, and what cannot be "
                f"handled ends in `{DEAD_LETTER_TOPIC}` and `{EVENTS_DEAD_LETTER_TOPIC}`.",
            ),
            f"## {TRAINING_TOPIC}\n",
            "Published by training, by a person, by the dashboard's button. A field that is not "
            "listed is refused. Times are RFC 3339 with a zone.\n",
            *sections(TrainingCompleted, _comments("training_completed.proto")),
            "What passes these rules and still cannot be right (a model that nobody declared, a "
            "bucket that is not on the allow-list) is recorded, goes to the dead letters with its "
            "reason, and is not tried again.\n",
            "### The schema at the topic\n",
            _schema("training_completed.proto"),
            f"## {EVENTS_TOPIC}\n",
            "One CloudEvent for each transition, at least once and with the same `ce-id` when it "
            "comes again.\n",
            table(["Attribute", "Holds"], _attributes()),
            table(["Field", "Type", "Meaning"], _event_fields()),
            "### Actions\n",
            "The type is `" + announcement.TYPE_PREFIX + "` and the action, with underscores. "
            "These are told to people in a chat too; others are for programs.\n",
            table(
                ["Action", "Type", "The line in the chat"],
                [
                    [code(action), code(announcement.type_of(action)), line.said]
                    for action, line in LINES.items()
                ],
            ),
            "### The events' schema\n",
            _schema("deployment_event.proto"),
        ]
    )


def sections(
    model: type[BaseModel],
    comments: Mapping[str, Mapping[str, str]] | None = None,
    words: Mapping[str, str] | None = None,
) -> list[str]:
    """Return a section for the model and for each object in it, with a table of the fields.

    `comments` says what fields mean, by object; `words` replaces an object's own description.
    """
    schema = model.model_json_schema()
    definitions: dict[str, Any] = schema.get("$defs", {})
    nested = [name for name, found in definitions.items() if "properties" in found]
    shown = [(model.__name__, schema), *((name, definitions[name]) for name in nested)]
    return [
        f"### {name}\n\n{(words or {}).get(name) or first_paragraph(found.get('description'))}\n\n"
        + _fields(found, definitions, (comments or {}).get(name, {}))
        for name, found in shown
    ]


def _fields(
    schema: dict[str, Any], definitions: dict[str, Any], comments: Mapping[str, str]
) -> str:
    required = schema.get("required", [])
    rows = [
        [
            code(field),
            type_of(found, definitions),
            "yes" if field in required else default_of(found),
            " ".join(filter(None, [comments.get(field, ""), limits_of(found)])),
        ]
        for field, found in schema["properties"].items()
    ]
    last = "Meaning and limits" if comments else "Limits"
    return table(["Field", "Type", "Required, or default", last], rows)


def _attributes() -> list[list[str]]:
    return [
        ["`ce-id`", "the event's own name; the same when it comes again"],
        ["`ce-type`", f"`{announcement.TYPE_PREFIX}ACTION`"],
        ["`ce-source`", "`/projects/PROJECT/models/MODEL`"],
        ["`ce-subject`", "the deployment's id"],
        ["`ce-time`", "when it happened, RFC 3339"],
        ["`ce-specversion`", "`1.0`"],
        ["`content-type`", "`application/json`"],
    ]


def _event_fields() -> list[list[str]]:
    """Return each field of the .proto with the comment that stands above it."""
    comments = _comments("deployment_event.proto")["DeploymentEvent"]
    kinds = {name: kind for kind, name in _KIND.findall(_proto("deployment_event.proto"))}
    return [[code(name), kinds[name], said] for name, said in comments.items()]


def _comments(proto: str) -> dict[str, dict[str, str]]:
    """Return what the comment above each field says, by message and field; "" without one."""
    found: dict[str, dict[str, str]] = {}
    above: list[str] = []
    inside: list[str] = []
    for line in map(str.strip, _proto(proto).splitlines()):
        if begins := _MESSAGE.match(line):
            inside.append(begins[1])
            found[begins[1]] = {}
        elif line == "}":
            inside.pop()
        elif inside and (field := _FIELD.match(line)):
            found[inside[-1]][field[1]] = " ".join(above)
        above = [*above, line[2:].strip()] if line.startswith("//") else []
    return found


def _schema(name: str) -> str:
    return f"```protobuf\n{_proto(name).strip()}\n```\n"


def _proto(name: str) -> str:
    return (ROOT / "shared" / name).read_text()
