"""What every request handler works on, and how it reads a request and writes an answer."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import BinaryIO
from weakref import WeakValueDictionary

from aiohttp import web

from localcloud.storage import fields
from localcloud.storage.catalogue import ANY, Catalogue
from localcloud.storage.disk import Disk
from localcloud.storage.errors import Invalid, Unsupported
from localcloud.storage.parameters import Query
from localcloud.storage.preconditions import Preconditions
from localcloud.storage.resources import JsonObject, StoredObject

_ENCRYPTION = ("x-goog-encryption-", "x-goog-copy-source-encryption-")


@dataclass
class Store:
    """The state of the service; `rewrite_limit` bounds the bytes copied by one rewrite call."""

    catalogue: Catalogue
    disk: Disk
    rewrite_limit: int | None
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def lock(self, pending: str) -> asyncio.Lock:
        """Return the lock of one unfinished transfer: a retry waits for the call before it."""
        return self._locks.setdefault(pending, asyncio.Lock())

    def open(
        self, bucket: str, name: str, generation: int | None, condition: Preconditions = ANY
    ) -> tuple[StoredObject, BinaryIO]:
        """Return an object and its bytes, which stay readable whatever happens to the object.

        Files are removed only after the commit that frees them, so one that is opened
        inside a transaction is the one of this generation.
        """
        with self.catalogue.database.transaction():
            found = self.catalogue.find(bucket, name, generation, condition)
            return found, self.disk.sealed(found.file).open("rb")


class Call:
    """One request: path names unquoted, query parameters taken by name."""

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.query = Query(single_values(request))
        self.origin = f"{request.scheme}://{request.host}"
        for header in request.headers:
            if header.lower().startswith(_ENCRYPTION):
                raise Unsupported(f"header {header!r} (customer-supplied encryption key)")

    def name(self, part: str) -> str:
        """Return a part of the path: `bucket`, `object`, …"""
        return self.request.match_info[part]

    async def json(self) -> JsonObject:
        """Return the body, {} where there is none; Invalid when it is not a JSON object."""
        body = await self.request.read()
        return parse_json(body) if body.strip() else {}

    def respond(self, resource: JsonObject) -> web.Response:
        """Answer 200 with a resource, cut down to the fields that were asked for."""
        mask = self.request.query.get("fields")
        body = fields.apply(fields.parse(mask), resource) if mask else resource
        return web.json_response(body)


def parse_json(body: bytes | bytearray) -> JsonObject:
    """Return a JSON object; Invalid when it is anything else."""
    try:
        document = json.loads(body)
    except ValueError as error:
        raise Invalid("Parse Error") from error
    if not isinstance(document, dict):
        raise Invalid("Parse Error: a JSON object expected")
    return document


def single_values(request: web.Request) -> dict[str, str]:
    """Return the query; Invalid when a parameter is there twice."""
    values = dict(request.query)
    if len(values) != len(request.query):
        raise Invalid("A query parameter was given more than once")
    return values
