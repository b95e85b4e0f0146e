"""The Cloud Storage service: its routes, its folder, its start and end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from localcloud.storage import buckets, copies, objects, resumable, uploads
from localcloud.storage.catalogue import Catalogue
from localcloud.storage.disk import Disk
from localcloud.storage.downloads import download
from localcloud.storage.errors import (
    Invalid,
    NotModified,
    RangeUnsatisfiable,
    StorageError,
    Unsupported,
)
from localcloud.storage.store import Call, Store

Action = Callable[[Store, Call], Awaitable[web.StreamResponse]]
_log = logging.getLogger(__name__)

_BUCKETS = "/storage/v1/b"
_BUCKET = _BUCKETS + "/{bucket}"
_OBJECTS = _BUCKET + "/o"
_OBJECT = _OBJECTS + "/{object}"
_DESTINATION = "/b/{destination_bucket}/o/{destination_object}"
_UPLOAD = "/upload" + _OBJECTS

_ROUTES: tuple[tuple[str, str, Action], ...] = (
    ("POST", _BUCKETS, buckets.insert),
    ("GET", _BUCKETS, buckets.select),
    ("GET", _BUCKET, buckets.get),
    ("PATCH", _BUCKET, buckets.patch),
    ("DELETE", _BUCKET, buckets.delete),
    ("GET", _OBJECTS, objects.select),
    ("GET", _OBJECT, objects.get),
    ("PATCH", _OBJECT, objects.patch),
    ("PUT", _OBJECT, objects.update),
    ("DELETE", _OBJECT, objects.delete),
    ("POST", _OBJECT + "/compose", copies.compose),
    ("POST", _OBJECT + "/copyTo" + _DESTINATION, copies.copy),
    ("POST", _OBJECT + "/rewriteTo" + _DESTINATION, copies.rewrite),
    ("GET", "/download" + _OBJECT, download),
)


class Storage:
    """Cloud Storage over HTTP; objects and buckets live in `folder`.

    `rewrite_call_bytes` bounds what one rewrite call copies, as Google does between
    locations, so that callers must loop; None copies everything in the first call.
    """

    def __init__(self, folder: Path, rewrite_call_bytes: int | None = None) -> None:
        disk = Disk(folder)
        self._store = Store(
            catalogue=Catalogue(folder / "storage.sqlite", disk.discard),
            disk=disk,
            rewrite_limit=rewrite_call_bytes,
        )

    def start(self) -> None:
        """Remove what a kill left half done; call it before the first request."""
        self._store.catalogue.expire()
        self._store.disk.reopen(self._store.catalogue.unfinished_files())
        self._store.disk.collect(self._store.catalogue.files())

    def stop(self) -> None:
        """Close the database; call it after the last request."""
        self._store.catalogue.database.close()

    def app(self) -> web.Application:
        """Return the HTTP application."""
        app = web.Application(middlewares=[_answer_errors])
        for method, path, action in _ROUTES:
            app.router.add_route(method, path, self._handler(action))
        for method in ("POST", "PUT", "DELETE"):
            app.router.add_route(method, _UPLOAD, self._handler(_upload))
        app.router.add_route("*", "/{path:.*}", self._handler(_unsupported))
        return app

    def _handler(self, action: Action) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await action(self._store, Call(request))

        return handle


async def _upload(store: Store, call: Call) -> web.StreamResponse:
    uploads.refuse_encoded(call.request)
    kind = call.query.required("uploadType")
    match call.request.method, kind:
        case "POST", "media":
            return await uploads.media(store, call)
        case "POST", "multipart":
            return await uploads.multipart(store, call)
        case "POST", "resumable" if "upload_id" not in call.request.query:
            return await resumable.initiate(store, call)
        case "PUT" | "POST", "resumable":
            return await resumable.put(store, call)
        case "DELETE", "resumable":
            return await resumable.cancel(store, call)
    raise Invalid(f"Invalid {call.request.method} with uploadType={kind}")


async def _unsupported(_: Store, call: Call) -> web.StreamResponse:
    raise Unsupported(f"{call.request.method} {call.request.path}")


@web.middleware
async def _answer_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except StorageError as error:
        return _refusal(request, error)
    except (web.HTTPException, ConnectionError):
        raise
    except Exception as error:
        _log.exception("unexpected error in %s %s", request.method, request.path)
        return _refusal(request, StorageError(f"{type(error).__name__}: {error}"))


def _refusal(request: web.Request, error: StorageError) -> web.Response:
    if isinstance(error, NotModified):
        return web.Response(status=304)
    headers = {}
    if isinstance(error, RangeUnsatisfiable):
        headers["Content-Range"] = f"bytes */{error.size}"
    if request.query.get("alt") == "media":
        return web.Response(status=error.status, text=str(error), headers=headers)
    return web.json_response(error.body(), status=error.status, headers=headers)
