"""Resource names and labels, as Pub/Sub accepts them.

Source: cloud.google.com/pubsub/docs/pubsub-basics#resource_names and .../pubsub/docs/labels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from localcloud.pubsub.errors import InvalidArgument

_PROJECT = re.compile(r"projects/(?P<project>[A-Za-z0-9:._-]+)")
_RESOURCE = re.compile(
    r"projects/(?P<project>[A-Za-z0-9:._-]+)/(?P<collection>topics|subscriptions|schemas)/"
    r"(?P<id>[A-Za-z][A-Za-z0-9._~+%-]{2,254})"
)
_LABEL_KEY = re.compile(r"[^\W\d_A-Z][\w-]{0,62}")
_LABEL_VALUE = re.compile(r"[\w-]{0,63}")
MAX_LABELS = 64


def check_name(name: str, collection: str) -> str:
    """Return `name` when it names a resource of `collection`; else raise InvalidArgument."""
    match = _RESOURCE.fullmatch(name)
    if match is None or match["collection"] != collection or match["id"].lower().startswith("goog"):
        raise InvalidArgument(
            f"Invalid [{collection}] name: (name={name}); expected "
            f"projects/PROJECT/{collection}/ID, where ID is 3 to 255 of A-Za-z0-9-_.~+%, begins "
            'with a letter and not with "goog"'
        )
    return name


def check_project(name: str) -> str:
    """Return `name` when it is `projects/PROJECT`; else raise InvalidArgument."""
    if _PROJECT.fullmatch(name) is None:
        raise InvalidArgument(f"Invalid project: (name={name}); expected projects/PROJECT")
    return name


def project_of(name: str) -> str:
    """Return the project's id in a resource name."""
    return name.split("/")[1]


def short_name(name: str) -> str:
    """Return the last part of a resource name."""
    return name.rsplit("/", 1)[-1]


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise InvalidArgument unless keys and values follow the rules of Google's labels."""
    if len(labels) > MAX_LABELS:
        raise InvalidArgument(f"{len(labels)} labels; a resource has at most {MAX_LABELS}")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or key != key.lower():
            raise InvalidArgument(
                f"label key {key!r}: expected 1 to 63 lowercase letters, digits, - and _, "
                "beginning with a letter"
            )
        if not _LABEL_VALUE.fullmatch(value) or value != value.lower():
            raise InvalidArgument(
                f"label {key!r} has the value {value!r}: expected at most 63 lowercase letters, "
                "digits, - and _"
            )
