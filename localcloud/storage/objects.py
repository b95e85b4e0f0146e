"""Requests about the metadata of objects: get, list, patch, update, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from localcloud.storage import listing
from localcloud.storage.buckets import page_size
from localcloud.storage.catalogue import checked_for_read
from localcloud.storage.downloads import check_entity_tag, download
from localcloud.storage.errors import Unsupported
from localcloud.storage.preconditions import Preconditions
from localcloud.storage.resources import JsonObject, patched, render_object, settings_of
from localcloud.storage.store import Call, Store


async def get(store: Store, call: Call) -> web.StreamResponse:
    """GET /b/BUCKET/o/OBJECT: the resource, or with `alt=media` the bytes."""
    if call.request.query.get("alt", "json") == "media":
        return await download(store, call)
    condition, generation = Preconditions.of(call.query), call.query.integer("generation")
    call.query.finish()
    names = call.name("bucket"), call.name("object")
    found = await asyncio.to_thread(store.catalogue.find, *names, generation)
    check_entity_tag(call.request, found.etag)
    return call.respond(render_object(checked_for_read(found, condition), call.origin))


async def select(store: Store, call: Call) -> web.StreamResponse:
    """GET /b/BUCKET/o: one page of the objects and rolled-up prefixes."""
    query = call.query
    wanted = listing.Selection(
        prefix=query.text("prefix") or "",
        delimiter=query.text("delimiter") or "",
        start=query.text("startOffset") or "",
        end=query.text("endOffset") or None,
        versions=query.flag("versions"),
    )
    token, limit = query.text("pageToken"), page_size(call)
    # Both are what this service does anyway when they are false.
    for name in ("softDeleted", "includeTrailingDelimiter"):
        if query.flag(name):
            raise Unsupported(f"query parameter {name!r}")
    query.finish()
    page = await asyncio.to_thread(
        listing.page, store.catalogue, call.name("bucket"), wanted, token, limit
    )
    answer: JsonObject = {"kind": "storage#objects"}
    if page.next_token:
        answer["nextPageToken"] = page.next_token
    if page.prefixes:
        answer["prefixes"] = page.prefixes
    if page.items:
        answer["items"] = [render_object(item, call.origin) for item in page.items]
    return call.respond(answer)


async def patch(store: Store, call: Call) -> web.StreamResponse:
    """PATCH: merge the editable fields; null removes one."""
    changes = settings_of(await call.json(), patching=True)
    return await _change(store, call, lambda present: patched(present, changes))


async def update(store: Store, call: Call) -> web.StreamResponse:
    """PUT: replace all editable fields."""
    settings = settings_of(await call.json())
    return await _change(store, call, lambda _: settings)


async def delete(store: Store, call: Call) -> web.StreamResponse:
    """DELETE: the live generation, or for good the one in `generation`."""
    condition, generation = Preconditions.of(call.query), call.query.integer("generation")
    call.query.finish()
    names = call.name("bucket"), call.name("object")
    await asyncio.to_thread(store.catalogue.delete, *names, generation, condition)
    return web.Response(status=204)


async def _change(
    store: Store, call: Call, settings: Callable[[JsonObject], JsonObject]
) -> web.StreamResponse:
    condition, generation = Preconditions.of(call.query), call.query.integer("generation")
    call.query.finish()
    names = call.name("bucket"), call.name("object")
    found = await asyncio.to_thread(store.catalogue.change, *names, generation, settings, condition)
    return call.respond(render_object(found, call.origin))
