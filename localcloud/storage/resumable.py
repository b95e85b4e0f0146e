"""Resumable uploads: begun by POST, sent in chunks by PUT, continued after any interruption."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from urllib.parse import urlencode

from aiohttp import web

from localcloud.storage.catalogue import Pending
from localcloud.storage.disk import BLOCK
from localcloud.storage.errors import Invalid, NotFound, UploadCancelled
from localcloud.storage.preconditions import Preconditions
from localcloud.storage.resources import JsonObject, StoredObject, render_object
from localcloud.storage.store import Call, Store
from localcloud.storage.uploads import Order, claimed_checksums, new_object, receive, verify

UPLOAD = "upload"
#: Chunks but the last are multiples of this many bytes; a rest is not kept.
GRANULE = 256 * 1024
_CONTENT_RANGE = re.compile(r"bytes (?:\*|(\d+)-(\d+))/(?:\*|(\d+))")


@dataclass(frozen=True)
class Chunk:
    """`Content-Range` of a PUT: the first and last byte (None: a question), the total or None."""

    first: int | None
    last: int | None
    total: int | None

    @classmethod
    def of(cls, request: web.Request) -> Chunk:
        """Read the header; without one the body is the whole content."""
        header = request.headers.get("Content-Range")
        if header is None:
            size = request.content_length
            if size is None:
                return cls(0, None, None)
            return cls(0, size - 1, size) if size else cls(None, None, 0)
        match = _CONTENT_RANGE.fullmatch(header.strip())
        if match is None:
            raise Invalid(f"Failed to parse Content-Range header: {header!r}")
        first, last, total = (None if group is None else int(group) for group in match.groups())
        chunk = cls(first, last, total)
        if first is not None and last is not None:
            if last < first or (total is not None and last >= total):
                raise Invalid(f"Invalid Content-Range: {header!r}")
            if request.content_length not in (None, last - first + 1):
                raise Invalid(f"Content-Range {header!r} and Content-Length disagree")
        return chunk


async def initiate(store: Store, call: Call) -> web.StreamResponse:
    """POST uploadType=resumable: record what is wanted, answer where to send it."""
    headers = call.request.headers
    order = Order.of(call, await call.json(), headers.get("X-Upload-Content-Type"))
    call.query.finish()
    size = headers.get("X-Upload-Content-Length")
    if size is not None and not size.isdigit():
        raise Invalid(f"Invalid X-Upload-Content-Length: {size!r}")
    request = asdict(order) | {"size": None if size is None else int(size)}
    upload = secrets.token_urlsafe(32)

    def run() -> None:
        store.catalogue.check_write(order.bucket, order.name, order.condition)
        store.catalogue.begin(upload, UPLOAD, store.disk.begin(), request)

    await asyncio.to_thread(run)
    query = urlencode({"uploadType": "resumable", "name": order.name, "upload_id": upload})
    location = f"{call.origin}/upload/storage/v1/b/{order.bucket}/o?{query}"
    return web.Response(headers={"Location": location, "X-GUploader-UploadID": upload})


async def put(store: Store, call: Call) -> web.StreamResponse:
    """PUT upload_id=…: take a chunk, or tell how much is there."""
    upload = _upload_id(call)
    chunk = Chunk.of(call.request)
    async with store.lock(upload):
        pending = await asyncio.to_thread(_pending, store, upload)
        if pending.answer is not None:
            return call.respond(pending.answer)  # the answer got lost: here it is again
        total = _total(pending, chunk)
        if chunk.first is not None:
            await _take(store, call, pending, chunk)
        size = store.disk.incoming(pending.file).stat().st_size
        whole = chunk.first is not None and chunk.last is None
        if whole or (total is not None and size == total):
            answer = await asyncio.to_thread(_finish, store, call, pending)
            return call.respond(answer)
        if total is not None and size > total:
            raise Invalid(f"{size} bytes were sent of an upload of {total}")
        return _incomplete(_keep_granules(store, pending))


async def cancel(store: Store, call: Call) -> web.StreamResponse:
    """DELETE upload_id=…: drop what was sent; answered 499 as Google does."""
    upload = _upload_id(call)
    async with store.lock(upload):
        await asyncio.to_thread(_pending, store, upload)
        await asyncio.to_thread(store.catalogue.forget, upload)
    raise UploadCancelled("The upload was cancelled")


async def _take(store: Store, call: Call, pending: Pending, chunk: Chunk) -> None:
    """Append a chunk. Bytes that are there already are skipped, so a chunk may be sent twice."""
    there = _keep_granules(store, pending)
    assert chunk.first is not None
    if chunk.first > there:
        raise Invalid(f"The chunk begins at byte {chunk.first}, but only {there} were received")
    body = call.request.content.iter_chunked(BLOCK)
    await receive(_skip(body, there - chunk.first), store.disk, pending.file)


def _keep_granules(store: Store, pending: Pending) -> int:
    """Cut an interrupted chunk down to whole granules; return how many bytes are kept."""
    path = store.disk.incoming(pending.file)
    size = path.stat().st_size
    kept = size - size % GRANULE
    if kept != size:
        with path.open("ab") as writer:
            writer.truncate(kept)
    return kept


def _finish(store: Store, call: Call, pending: Pending) -> JsonObject:
    order = _order(pending.request)
    try:
        content = store.disk.seal(pending.file)
        verify(content, order.checksums | claimed_checksums(call.request))

        def remember(stored: StoredObject) -> None:
            store.catalogue.finish(pending.id, render_object(stored, call.origin))

        stored = store.catalogue.put(new_object(order, content), order.condition, remember)
    except Exception:
        # Wrong bytes or a lost race: this upload cannot succeed any more.
        store.catalogue.forget(pending.id)
        raise
    return render_object(stored, call.origin)


def _pending(store: Store, upload: str) -> Pending:
    pending = store.catalogue.pending(upload, UPLOAD)
    if pending is None:
        raise NotFound("No such upload: it expired, failed, was cancelled or never begun")
    return pending


def _order(request: JsonObject) -> Order:
    fields = {key: value for key, value in request.items() if key != "size"}
    return Order(**fields | {"condition": Preconditions(**request["condition"])})


def _total(pending: Pending, chunk: Chunk) -> int | None:
    declared = pending.request["size"]
    if None not in (declared, chunk.total) and declared != chunk.total:
        raise Invalid(f"The upload was begun with {declared} bytes, the chunk says {chunk.total}")
    return chunk.total if chunk.total is not None else declared


def _incomplete(received: int) -> web.Response:
    headers = {"Range": f"bytes=0-{received - 1}"} if received else {}
    return web.Response(status=308, reason="Resume Incomplete", headers=headers)


def _upload_id(call: Call) -> str:
    upload = call.query.required("upload_id")
    # They were read when the upload began; the location repeats them.
    for name in ("uploadType", "name"):
        call.query.text(name)
    call.query.finish()
    return upload


async def _skip(chunks: AsyncIterator[bytes], count: int) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if count < len(chunk):
            yield chunk[count:]
        count = max(count - len(chunk), 0)
