"""Listing the objects of a bucket: prefixes rolled up, page after page."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field

from localcloud.storage.catalogue import Catalogue, to_object
from localcloud.storage.errors import Invalid
from localcloud.storage.resources import StoredObject

MAX_RESULTS = 1000


@dataclass(frozen=True)
class Selection:
    """Which objects: `start` is included, `end` is not.

    Names compare by code points, which is the order of their UTF-8 bytes.
    """

    prefix: str = ""
    delimiter: str = ""
    start: str = ""
    end: str | None = None
    versions: bool = False


@dataclass
class Page:
    """At most `MAX_RESULTS` objects and prefixes; `next_token` is None on the last page."""

    items: list[StoredObject] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    next_token: str | None = None


def page(
    catalogue: Catalogue, bucket: str, wanted: Selection, token: str | None, limit: int
) -> Page:
    """Return one page of a listing, in ascending order of names, then of generations."""
    found = Page()
    position = _from_token(token) if token else (max(wanted.start, wanted.prefix), 0)
    with catalogue.database.transaction():
        catalogue.bucket(bucket)
        while rows := _rows(catalogue, bucket, wanted, position):
            for row in rows:
                if (row.name, row.generation) < position:
                    continue  # rolled up into the prefix that was added last
                if not row.name.startswith(wanted.prefix):
                    return found
                if wanted.end is not None and row.name >= wanted.end:
                    return found
                if len(found.items) + len(found.prefixes) == limit:
                    found.next_token = _to_token((row.name, row.generation))
                    return found
                rolled = _rolled_up(row.name, wanted)
                if rolled is None:
                    found.items.append(row)
                    position = (row.name, row.generation + 1)
                else:
                    found.prefixes.append(rolled)
                    if (behind := _behind(rolled)) is None:
                        return found
                    position = (behind, 0)
    return found


def _rows(
    catalogue: Catalogue, bucket: str, wanted: Selection, position: tuple[str, int]
) -> list[StoredObject]:
    live = "" if wanted.versions else "AND deleted IS NULL"
    rows = catalogue.database.rows(
        f"SELECT * FROM objects WHERE bucket = ? AND (name, generation) >= (?, ?) {live}"
        " ORDER BY name, generation LIMIT 500",
        bucket,
        *position,
    )
    return [to_object(row) for row in rows]


def _rolled_up(name: str, wanted: Selection) -> str | None:
    if not wanted.delimiter:
        return None
    end = name.find(wanted.delimiter, len(wanted.prefix))
    return None if end < 0 else name[: end + len(wanted.delimiter)]


def _behind(prefix: str) -> str | None:
    """Return the least text behind everything that starts with `prefix`, None if there is none."""
    while prefix:
        code = ord(prefix[-1]) + 1
        if 0xD800 <= code <= 0xDFFF:
            code = 0xE000  # surrogates are no characters
        if code <= 0x10FFFF:
            return prefix[:-1] + chr(code)
        prefix = prefix[:-1]
    return None


def _to_token(position: tuple[str, int]) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def _from_token(token: str) -> tuple[str, int]:
    try:
        name, generation = json.loads(base64.urlsafe_b64decode(token))
        return str(name), int(generation)
    except ValueError as error:
        raise Invalid("Invalid value for pageToken") from error
