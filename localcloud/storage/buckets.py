"""Requests about buckets."""

from __future__ import annotations

import asyncio

from aiohttp import web

from localcloud.storage import catalogue, listing
from localcloud.storage.errors import Invalid
from localcloud.storage.preconditions import Preconditions
from localcloud.storage.resources import (
    Bucket,
    bucket_changes,
    checked_bucket_name,
    render_bucket,
)
from localcloud.storage.store import Call, Store


async def insert(store: Store, call: Call) -> web.StreamResponse:
    """POST /b: create a bucket."""
    call.query.text("project")  # there is one project
    call.query.finish()
    resource = await call.json()
    created = catalogue.now()
    bucket = Bucket(
        name=checked_bucket_name(resource.get("name")),
        metageneration=1,
        created=created,
        updated=created,
        **bucket_changes(resource),
    )
    await asyncio.to_thread(store.catalogue.create_bucket, bucket)
    return call.respond(render_bucket(bucket, call.origin))


async def select(store: Store, call: Call) -> web.StreamResponse:
    """GET /b: list buckets, page after page; the token is the last name seen."""
    call.query.text("project")
    limit = page_size(call)
    prefix, after = call.query.text("prefix") or "", call.query.text("pageToken") or ""
    call.query.finish()
    found = await asyncio.to_thread(store.catalogue.buckets, prefix, after, limit + 1)
    items = [render_bucket(bucket, call.origin) for bucket in found[:limit]]
    more = {"nextPageToken": found[limit - 1].name} if len(found) > limit else {}
    return call.respond({"kind": "storage#buckets", "items": items, **more})


async def get(store: Store, call: Call) -> web.StreamResponse:
    """GET /b/BUCKET."""
    condition = Preconditions.of(call.query)
    call.query.finish()
    bucket = await asyncio.to_thread(store.catalogue.bucket, call.name("bucket"))
    condition.check(1, bucket.metageneration, reading=True)
    return call.respond(render_bucket(bucket, call.origin))


async def patch(store: Store, call: Call) -> web.StreamResponse:
    """PATCH /b/BUCKET: versioning, labels, storage class of new objects."""
    condition = Preconditions.of(call.query)
    call.query.finish()
    changes = bucket_changes(await call.json())
    if "location" in changes:
        raise Invalid("The location of a bucket cannot be changed")
    name = call.name("bucket")
    bucket = await asyncio.to_thread(store.catalogue.change_bucket, name, changes, condition)
    return call.respond(render_bucket(bucket, call.origin))


async def delete(store: Store, call: Call) -> web.StreamResponse:
    """DELETE /b/BUCKET: only when it is empty."""
    condition = Preconditions.of(call.query)
    call.query.finish()
    await asyncio.to_thread(store.catalogue.delete_bucket, call.name("bucket"), condition)
    return web.Response(status=204)


def page_size(call: Call) -> int:
    """Return `maxResults`, at most 1000 as Google caps it."""
    wanted = call.query.integer("maxResults")
    if wanted == 0:
        raise Invalid("Invalid value for maxResults: at least 1")
    return min(wanted or listing.MAX_RESULTS, listing.MAX_RESULTS)
