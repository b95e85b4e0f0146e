"""gRPC around the service's methods: parse, call, encode, and refusals as status codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc
from google.protobuf.empty_pb2 import Empty

from localcloud.firestore.errors import FirestoreError, InvalidArgument, Unimplemented
from localcloud.firestore.messages import message_class, refuse_unknown_fields

SERVICE = "google.firestore.v1.Firestore"
MAX_REQUEST_BYTES = 10 * 1024 * 1024


def unary(
    request: str, response: str, method: Callable[[Any], Any]
) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a handler of one request and one response; response "" is Empty."""

    def handle(message: Any, context: grpc.ServicerContext) -> Any:
        try:
            _check(message)
            return method(message)
        except FirestoreError as refused:
            _abort(context, refused)

    return grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=message_class(request).FromString,
        response_serializer=(message_class(response) if response else Empty).SerializeToString,
    )


def streaming(
    request: str, response: str, method: Callable[[Any], Iterator[Any]]
) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a handler of one request and a stream of responses."""

    def handle(message: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            _check(message)
            yield from method(message)
        except FirestoreError as refused:
            _abort(context, refused)

    return grpc.unary_stream_rpc_method_handler(
        handle,
        request_deserializer=message_class(request).FromString,
        response_serializer=message_class(response).SerializeToString,
    )


def bidirectional(
    request: str, response: str, method: Callable[[Iterator[Any]], Iterator[Any]]
) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a handler of a stream each way."""

    def handle(messages: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from method(messages)
        except FirestoreError as refused:
            _abort(context, refused)

    return grpc.stream_stream_rpc_method_handler(
        handle,
        request_deserializer=message_class(request).FromString,
        response_serializer=message_class(response).SerializeToString,
    )


def left_out(method: str) -> Callable[[Any], Any]:
    """Return a method that refuses, by its name, what the local Firestore does not offer."""

    def refuse(_: Any) -> NoReturn:
        raise Unimplemented(f"{SERVICE}/{method}")

    return refuse


def _check(message: Any) -> None:
    if message.ByteSize() > MAX_REQUEST_BYTES:
        raise InvalidArgument(f"the request is larger than {MAX_REQUEST_BYTES:,} bytes")
    refuse_unknown_fields(message)


def _abort(context: grpc.ServicerContext, refused: FirestoreError) -> NoReturn:
    context.abort(refused.code, str(refused))
    raise AssertionError("abort returned")
