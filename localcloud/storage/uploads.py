"""Uploads in one request: media and multipart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from localcloud.storage.catalogue import NewObject
from localcloud.storage.disk import BLOCK, Content, Disk
from localcloud.storage.errors import Invalid, Unsupported
from localcloud.storage.preconditions import Preconditions
from localcloud.storage.resources import (
    JsonObject,
    StoredObject,
    checked_object_name,
    render_object,
    settings_of,
    storage_class_of,
)
from localcloud.storage.store import Call, Store, parse_json

#: The name of the object that a request uploads, which may be in its body only.
OBJECT_NAME = web.RequestKey("object_name", str)
_DEFAULT_TYPE = "application/octet-stream"
_MAX_RESOURCE = 1 << 20


@dataclass(frozen=True)
class Order:
    """What an upload asks to be stored; the checksums (base64) are the sender's claim."""

    bucket: str
    name: str
    settings: JsonObject
    storage_class: str | None
    checksums: dict[str, str]
    condition: Preconditions

    @classmethod
    def of(cls, call: Call, resource: JsonObject, content_type: str | None) -> Order:
        """Read the parameters, the object resource and the content type of an upload."""
        name = call.query.text("name") or resource.get("name")
        if not isinstance(name, str):
            raise Invalid("Required parameter: name")
        call.request[OBJECT_NAME] = name
        settings = settings_of(resource)
        settings.setdefault("contentType", content_type or _DEFAULT_TYPE)
        return cls(
            bucket=call.name("bucket"),
            name=checked_object_name(name),
            settings=settings,
            storage_class=storage_class_of(resource),
            checksums={
                kind: resource[key]
                for kind, key in (("crc32c", "crc32c"), ("md5", "md5Hash"))
                if resource.get(key)
            },
            condition=Preconditions.of(call.query),
        )


async def media(store: Store, call: Call) -> web.StreamResponse:
    """POST uploadType=media: the body is the content."""
    order = Order.of(call, {}, call.request.headers.get("Content-Type"))
    call.query.finish()
    async with _incoming(store, order) as file:
        await receive(call.request.content.iter_chunked(BLOCK), store.disk, file)
        return await _complete(store, call, order, file)


async def multipart(store: Store, call: Call) -> web.StreamResponse:
    """POST uploadType=multipart: the object resource, then the content (multipart/related)."""
    if not call.request.content_type.startswith("multipart/"):
        raise Invalid("A multipart upload needs Content-Type: multipart/related")
    try:
        reader = await call.request.multipart()
        first = await _next_part(reader)
        resource = parse_json(await _read_at_most(first, _MAX_RESOURCE))
        second = await _next_part(reader)
        order = Order.of(call, resource, second.headers.get("Content-Type"))
        call.query.finish()
        async with _incoming(store, order) as file:
            await receive(_chunks(second), store.disk, file)
            if await reader.next() is not None:
                raise Invalid("A multipart upload has two parts")
            return await _complete(store, call, order, file)
    except (ValueError, AssertionError) as error:
        # What the parser says to a missing boundary or a body that ends too early.
        raise Invalid(f"Malformed multipart body: {error}") from error


async def receive(chunks: AsyncIterator[bytes], disk: Disk, file: str) -> None:
    """Append a stream to an incoming file, holding one block of it in memory."""
    with disk.incoming(file).open("ab") as writer:
        block = bytearray()
        async for chunk in chunks:
            block += chunk
            if len(block) >= BLOCK:
                await asyncio.to_thread(writer.write, bytes(block))
                block.clear()
        writer.write(bytes(block))


def claimed_checksums(request: web.Request) -> dict[str, str]:
    """Return what `X-Goog-Hash: crc32c=…,md5=…` claims, by kind."""
    claims = {}
    for header in request.headers.getall("X-Goog-Hash", []):
        for claim in header.split(","):
            kind, _, value = claim.strip().partition("=")
            if kind not in ("crc32c", "md5"):
                raise Invalid(f"Invalid X-Goog-Hash: {claim.strip()!r}")
            claims[kind] = value
    return claims


def verify(content: Content, claims: dict[str, str]) -> None:
    """Compare the checksums that the sender claimed with the bytes; Invalid when they differ."""
    actual = {"crc32c": content.crc32c, "md5": content.md5}
    for kind, claimed in claims.items():
        if claimed != actual[kind]:
            raise Invalid(
                f"Provided {kind.upper()} hash {claimed!r} doesn't match"
                f" calculated {kind.upper()} hash {actual[kind]!r}."
            )


def new_object(order: Order, content: Content) -> NewObject:
    """Return the object that an upload stores."""
    return NewObject(order.bucket, order.name, content, order.settings, order.storage_class)


def refuse_encoded(request: web.Request) -> None:
    """Refuse a compressed request body: it would be stored decompressed."""
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Unsupported("header 'Content-Encoding' on an upload (set contentEncoding instead)")


@asynccontextmanager
async def _incoming(store: Store, order: Order) -> AsyncIterator[str]:
    """Give an incoming file after a first look at the conditions; gone if the upload fails."""
    await asyncio.to_thread(store.catalogue.check_write, order.bucket, order.name, order.condition)
    file = store.disk.begin()
    try:
        yield file
    except BaseException:
        store.disk.discard([file])
        raise


async def _complete(store: Store, call: Call, order: Order, file: str) -> web.StreamResponse:
    claims = order.checksums | claimed_checksums(call.request)

    def run() -> StoredObject:
        content = store.disk.seal(file)
        verify(content, claims)
        return store.catalogue.put(new_object(order, content), order.condition)

    return call.respond(render_object(await asyncio.to_thread(run), call.origin))


async def _next_part(reader: aiohttp.MultipartReader) -> aiohttp.BodyPartReader:
    part = await reader.next()
    if not isinstance(part, aiohttp.BodyPartReader):
        raise Invalid("A multipart upload has two parts")
    return part


async def _read_at_most(part: aiohttp.BodyPartReader, limit: int) -> bytes:
    body = bytearray()
    async for chunk in _chunks(part):
        body += chunk
        if len(body) > limit:
            raise Invalid("The object resource is too large")
    return bytes(body)


async def _chunks(part: aiohttp.BodyPartReader) -> AsyncIterator[bytes]:
    while chunk := await part.read_chunk(BLOCK // 4):
        yield chunk
