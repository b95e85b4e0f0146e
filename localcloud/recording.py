"""Notes the calls that reach the services: an interceptor for gRPC, a middleware for Storage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import grpc
from aiohttp import web

from localcloud.calls import CALLER, Calls
from localcloud.storage.uploads import OBJECT_NAME

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Recorder(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Notes every call of one gRPC listener; `caller` is whose it is where the call names none."""

    def __init__(self, calls: Calls, caller: str) -> None:
        self._calls, self._caller = calls, caller

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler, which notes the call before it answers (called by gRPC)."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        metadata = dict(handler_call_details.invocation_metadata or ())
        caller = str(metadata.get(CALLER, self._caller))
        method = str(handler_call_details.method).lstrip("/")

        def noted(request: Any) -> Any:
            for detail in details(method, request):
                self._calls.note(caller, method, detail)
            return request

        codecs = (handler.request_deserializer, handler.response_serializer)
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                lambda requests, context: handler.stream_stream(_first(requests, noted), context),
                *codecs,
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                lambda request, context: handler.unary_stream(noted(request), context), *codecs
            )
        assert not handler.request_streaming, f"{method}: no service here has such a method"
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: handler.unary_unary(noted(request), context), *codecs
        )


def details(method: str, request: Any) -> list[str]:
    """Return what of a request decides on the permission, one for each; [""] where nothing does."""
    name = method.rpartition("/")[2]
    if name in ("Commit", "BatchWrite"):
        return sorted({_kind_of(write) for write in request.writes}) or [""]
    if name == "UpdateService":
        return [",".join(sorted(request.update_mask.paths))]
    if name == "RunJob":
        return ["overrides" if request.HasField("overrides") else ""]
    if name == "Publish":
        return [request.topic.rpartition("/")[2]]
    return [""]


def recording(calls: Calls, callers: Mapping[int, str]) -> Any:
    """Return the middleware that notes Cloud Storage's calls; `callers` by the port called."""

    @web.middleware
    async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
        assert request.transport is not None
        port = request.transport.get_extra_info("sockname")[1]
        caller = request.headers.get(CALLER, callers[port])
        try:
            return await handler(request)
        finally:
            for method, detail in storage_calls(request):
                calls.note(caller, method, detail)

    return record


def storage_calls(request: web.Request) -> list[tuple[str, str]]:
    """Return the method of Cloud Storage's JSON API that a request is, and BUCKET/FOLDER.

    FOLDER is the first part of the object's name, or of the prefix that is listed. A copy reads
    one bucket and writes another, so it is two calls. ` (new)` follows where the request may only
    make an object that is not there yet. A later piece of an upload is of the call that began it.
    """
    names = request.match_info
    resource = names.route.resource
    path = resource.canonical[resource.canonical.find("/storage") :] if resource else ""
    created = " (new)" if request.query.get("ifGenerationMatch") == "0" else ""
    if "upload_id" in request.query:
        return []
    if "destination_bucket" in names:
        source = _place(names["bucket"], names["object"])
        target = _place(names["destination_bucket"], names["destination_object"])
        return [
            ("storage.objects.rewrite from", source),
            ("storage.objects.rewrite to", target + created),
        ]
    if "object" in names:
        verb = "compose" if path.endswith("/compose") else _OBJECT[request.method]
        return [(f"storage.objects.{verb}", _place(names["bucket"], names["object"]))]
    if path.endswith("/o"):
        if request.method == "GET":
            place = _place(names["bucket"], request.query.get("prefix", ""))
            return [("storage.objects.list", place)]
        place = _place(names["bucket"], request.get(OBJECT_NAME, ""))
        return [("storage.objects.insert", place + created)]
    if path.startswith("/storage/v1/b"):
        return [(f"storage.buckets.{_BUCKET[request.method]}", names.get("bucket", ""))]
    return []


_OBJECT = {
    "GET": "get",
    "HEAD": "get",
    "PATCH": "patch",
    "PUT": "update",
    "POST": "insert",
    "DELETE": "delete",
}
_BUCKET = {"GET": "get", "HEAD": "get", "PATCH": "patch", "POST": "insert", "DELETE": "delete"}


def _place(bucket: str, name: str) -> str:
    return f"{bucket}/{name.partition('/')[0] if '/' in name else ''}"


def _kind_of(write: Any) -> str:
    """Return create, update, set (either of both), delete or verify."""
    operation = str(write.WhichOneof("operation"))
    if operation != "update":
        return operation
    condition = write.current_document
    if condition.HasField("exists"):
        return "update" if condition.exists else "create"
    return "update" if condition.HasField("update_time") else "set"


def _first(requests: Iterator[Any], noted: Callable[[Any], Any]) -> Iterator[Any]:
    """Note the first request of a stream, pass all on."""
    for number, request in enumerate(requests):
        yield noted(request) if number == 0 else request
