"""Making objects from objects: rewrite, copy and compose."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import BinaryIO

from aiohttp import web

from localcloud.storage.catalogue import NewObject, Pending
from localcloud.storage.disk import BLOCK
from localcloud.storage.errors import Expired, Invalid, Unsupported
from localcloud.storage.preconditions import Preconditions
from localcloud.storage.resources import (
    JsonObject,
    StoredObject,
    checked_object_name,
    render_object,
    settings_of,
    storage_class_of,
)
from localcloud.storage.store import Call, Store

REWRITE = "rewrite"
MAX_COMPONENTS = 32


@dataclass(frozen=True)
class Order:
    """What a copy or rewrite asks for."""

    source: tuple[str, str]
    source_generation: int | None
    source_condition: Preconditions
    destination: tuple[str, str]
    condition: Preconditions
    settings: JsonObject
    storage_class: str | None

    @classmethod
    async def of(cls, call: Call) -> Order:
        """Read a request of the form /b/B/o/O/…To/b/B/o/O."""
        resource = await call.json()
        return cls(
            source=(call.name("bucket"), call.name("object")),
            source_generation=call.query.integer("sourceGeneration"),
            source_condition=Preconditions.of(call.query, "Source"),
            destination=(
                call.name("destination_bucket"),
                checked_object_name(call.name("destination_object")),
            ),
            condition=Preconditions.of(call.query),
            settings=settings_of(resource),
            storage_class=storage_class_of(resource),
        )


async def copy(store: Store, call: Call) -> web.StreamResponse:
    """POST …/copyTo/…: the whole object in one call."""
    order = await Order.of(call)
    call.query.finish()

    def run() -> StoredObject:
        store.catalogue.check_write(*order.destination, order.condition)
        source, reader = store.open(*order.source, order.source_generation, order.source_condition)
        file = store.disk.begin()
        with reader:
            store.disk.append(file, reader)
        return _put(store, order, source, file, None, call.origin)

    return call.respond(render_object(await asyncio.to_thread(run), call.origin))


async def rewrite(store: Store, call: Call) -> web.StreamResponse:
    """POST …/rewriteTo/…: up to a number of bytes a call, continued with `rewriteToken`."""
    order, token = await Order.of(call), call.query.text("rewriteToken")
    limit = call.query.integer("maxBytesRewrittenPerCall")
    if limit is not None and (limit == 0 or limit % BLOCK):
        raise Invalid("maxBytesRewrittenPerCall must be a multiple of 1048576")
    call.query.finish()
    if token is None:
        token = secrets.token_urlsafe(32)
        await asyncio.to_thread(_begin, store, order, token)
    async with store.lock(token):
        answer = await asyncio.to_thread(
            _advance, store, order, token, limit or store.rewrite_limit, call.origin
        )
    return call.respond(answer)


async def compose(store: Store, call: Call) -> web.StreamResponse:
    """POST …/compose: concatenate up to 32 objects of the same bucket."""
    bucket, name = call.name("bucket"), checked_object_name(call.name("object"))
    condition = Preconditions.of(call.query)
    call.query.finish()
    body = await call.json()
    for field in set(body) - {"kind", "sourceObjects", "destination"}:
        if body[field]:
            raise Unsupported(f"compose field {field!r}")
    parts, target = body.get("sourceObjects") or [], body.get("destination") or {}
    settings, storage_class = settings_of(target), storage_class_of(target)
    if not 1 <= len(parts) <= MAX_COMPONENTS:
        raise Invalid(f"The number of source components must be 1 to {MAX_COMPONENTS}")

    def run() -> StoredObject:
        store.catalogue.check_write(bucket, name, condition)
        opened = [_component(store, bucket, part) for part in parts]
        sources = [source for source, _ in opened]
        file = store.disk.begin()
        for _, reader in opened:
            with reader:
                store.disk.append(file, reader)
        content = store.disk.seal(file)
        new = NewObject(
            bucket=bucket,
            name=name,
            content=content,
            settings=settings,
            storage_class=storage_class,
            components=sum(source.components or 1 for source in sources),
        )
        return _stored(store, new, condition)

    return call.respond(render_object(await asyncio.to_thread(run), call.origin))


def _begin(store: Store, order: Order, token: str) -> None:
    # A first look at the destination, before the work; the write checks again.
    store.catalogue.check_write(*order.destination, order.condition)
    source = store.catalogue.find(*order.source, order.source_generation, order.source_condition)
    request: JsonObject = {
        "source": list(order.source),
        "generation": source.generation,
        "destination": list(order.destination),
    }
    store.catalogue.begin(token, REWRITE, store.disk.begin(), request)


def _continued(store: Store, order: Order, token: str) -> Pending:
    found = store.catalogue.pending(token, REWRITE)
    if found is None:
        raise Expired("The rewrite token is unknown or expired")
    request = found.request
    same = [list(order.source), list(order.destination)]
    if [request["source"], request["destination"]] != same:
        raise Invalid("The rewrite token belongs to another source or destination")
    if order.source_generation not in (None, request["generation"]):
        raise Invalid("The rewrite token belongs to another generation of the source")
    return found


def _advance(store: Store, order: Order, token: str, limit: int | None, origin: str) -> JsonObject:
    """Copy the next bytes. A call repeated after its answer was lost only goes on from there."""
    pending = _continued(store, order, token)
    if pending.answer is not None:
        return pending.answer
    try:
        source, reader = store.open(
            *order.source, pending.request["generation"], order.source_condition
        )
        incoming = store.disk.incoming(pending.file)
        with reader:
            reader.seek(incoming.stat().st_size)
            store.disk.append(pending.file, reader, limit)
        done = incoming.stat().st_size
        if done < source.size:
            return _progress(done, source.size) | {"done": False, "rewriteToken": pending.id}
        stored = _put(store, order, source, pending.file, pending.id, origin)
    except Exception:
        store.catalogue.forget(pending.id)
        raise
    return _finished(stored, origin)


def _put(
    store: Store, order: Order, source: StoredObject, file: str, pending: str | None, origin: str
) -> StoredObject:
    # Fields in the request replace the source's; what it does not name is copied.
    new = NewObject(
        bucket=order.destination[0],
        name=order.destination[1],
        content=store.disk.seal(file),
        settings=source.settings | order.settings,
        storage_class=order.storage_class or source.storage_class,
        components=source.components,
    )
    return _stored(store, new, order.condition, pending, origin)


def _stored(
    store: Store,
    new: NewObject,
    condition: Preconditions,
    pending: str | None = None,
    origin: str = "",
) -> StoredObject:
    def finish(stored: StoredObject) -> None:
        if pending is not None:
            store.catalogue.finish(pending, _finished(stored, origin))

    try:
        return store.catalogue.put(new, condition, finish)
    except Exception:
        store.disk.discard([new.content.file])
        raise


def _component(store: Store, bucket: str, part: JsonObject) -> tuple[StoredObject, BinaryIO]:
    conditions = part.get("objectPreconditions") or {}
    unknown = (set(part) - {"name", "generation", "objectPreconditions"}) | (
        set(conditions) - {"ifGenerationMatch"}
    )
    if unknown:
        raise Unsupported(f"compose source field {min(unknown)!r}")
    wanted = conditions.get("ifGenerationMatch")
    generation = part.get("generation")
    return store.open(
        bucket,
        str(part.get("name")),
        None if generation is None else int(generation),
        Preconditions(generation=None if wanted is None else int(wanted)),
    )


def _progress(done: int, size: int) -> JsonObject:
    return {
        "kind": "storage#rewriteResponse",
        "totalBytesRewritten": str(done),
        "objectSize": str(size),
    }


def _finished(stored: StoredObject, origin: str) -> JsonObject:
    resource = render_object(stored, origin)
    return _progress(stored.size, stored.size) | {"done": True, "resource": resource}
