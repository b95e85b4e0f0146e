"""Downloading the bytes of an object, whole or a range of them."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime
from email.utils import format_datetime

from aiohttp import web

from localcloud.storage.catalogue import checked_for_read
from localcloud.storage.disk import BLOCK
from localcloud.storage.errors import (
    NotModified,
    PreconditionFailed,
    RangeUnsatisfiable,
    Unsupported,
)
from localcloud.storage.preconditions import Preconditions
from localcloud.storage.resources import StoredObject
from localcloud.storage.store import Call, Store

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.IGNORECASE)


async def download(store: Store, call: Call) -> web.StreamResponse:
    """Stream an object's bytes, or `Range: bytes=first-last` of them as 206."""
    condition, generation = Preconditions.of(call.query), call.query.integer("generation")
    call.query.finish()
    found, reader = await asyncio.to_thread(
        store.open, call.name("bucket"), call.name("object"), generation
    )
    with reader:
        check_entity_tag(call.request, found.etag)
        checked_for_read(found, condition)
        _check_encoding(call.request, found)
        wanted = byte_range(call.request.headers.get("Range"), found.size)
        first, last = wanted or (0, found.size - 1)
        response = web.StreamResponse(status=206 if wanted else 200, headers=_headers(found))
        response.content_length = last - first + 1
        if wanted:
            response.headers["Content-Range"] = f"bytes {first}-{last}/{found.size}"
        await response.prepare(call.request)
        reader.seek(first)
        left = last - first + 1
        while left > 0:
            block = await asyncio.to_thread(reader.read, min(left, BLOCK))
            if not block:
                raise OSError(f"data file of {found.bucket}/{found.name} is cut short")
            left -= len(block)
            await response.write(block)
        await response.write_eof()
    return response


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first and the last byte wanted, None for all of them.

    A malformed range is ignored (RFC 9110); RangeUnsatisfiable, and Unsupported for several.
    """
    if header is None:
        return None
    if "," in header:
        raise Unsupported("more than one range in a request")
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        wanted = max(size - int(last), 0), size - 1
        if int(last) == 0 or size == 0:
            raise RangeUnsatisfiable(size)
        return wanted
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise RangeUnsatisfiable(size)
    return int(first), min(int(last or size - 1), size - 1)


def check_entity_tag(request: web.Request, etag: str) -> None:
    """Apply `If-Match` and `If-None-Match` of a read."""
    if (match := request.headers.get("If-Match")) and etag not in _tags(match):
        raise PreconditionFailed
    if (match := request.headers.get("If-None-Match")) and etag in _tags(match):
        raise NotModified


def _check_encoding(request: web.Request, found: StoredObject) -> None:
    encoding = found.settings.get("contentEncoding")
    accepted = request.headers.get("Accept-Encoding", "")
    plain = "no-transform" in found.settings.get("cacheControl", "")
    if encoding == "gzip" and "gzip" not in accepted and not plain:
        raise Unsupported("decompressive transcoding (send Accept-Encoding: gzip)")


def _headers(found: StoredObject) -> dict[str, str]:
    hashes = [f"crc32c={found.crc32c}"] + ([f"md5={found.md5}"] if found.md5 else [])
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Type": found.settings.get("contentType", "application/octet-stream"),
        "ETag": found.etag,
        "Last-Modified": format_datetime(datetime.fromisoformat(found.updated), usegmt=True),
        "X-Goog-Generation": str(found.generation),
        "X-Goog-Metageneration": str(found.metageneration),
        "X-Goog-Hash": ",".join(hashes),
        "X-Goog-Storage-Class": found.storage_class,
        "X-Goog-Stored-Content-Encoding": found.settings.get("contentEncoding", "identity"),
        "X-Goog-Stored-Content-Length": str(found.size),
    }
    for header, setting in (
        ("Cache-Control", "cacheControl"),
        ("Content-Disposition", "contentDisposition"),
        ("Content-Encoding", "contentEncoding"),
        ("Content-Language", "contentLanguage"),
    ):
        if setting in found.settings:
            headers[header] = found.settings[setting]
    return headers


def _tags(header: str) -> list[str]:
    return [tag.strip().strip('"') for tag in header.split(",")]
