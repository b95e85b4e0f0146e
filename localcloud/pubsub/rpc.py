"""gRPC plumbing: Google's message types, status codes from refusals, and honest refusals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import grpc
from google.protobuf import duration_pb2, timestamp_pb2
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from google.pubsub_v1 import types

from localcloud.pubsub.errors import InvalidArgument, Refusal, Unimplemented

# The protobuf classes under Google's wrappers: the same bytes, without the wrapping.
Topic: Any = types.Topic.pb()
Subscription: Any = types.Subscription.pb()
Schema: Any = types.Schema.pb()
PubsubMessage: Any = types.PubsubMessage.pb()
ReceivedMessage: Any = types.ReceivedMessage.pb()

MAX_PAGE = 1000
SECOND_US = 1_000_000


def service(
    name: str, methods: dict[str, grpc.RpcMethodHandler[Any, Any]], refused: dict[str, str]
) -> grpc.GenericRpcHandler[Any, Any]:
    """Return the handler of service `name`; `refused` maps a method to the feature it needs."""
    handlers = dict(methods)
    handlers.update({method: _refusing(feature) for method, feature in refused.items()})
    return grpc.method_handlers_generic_handler(name, handlers)


def unary(
    method: Callable[[Any, grpc.ServicerContext], Message], request: Any
) -> grpc.RpcMethodHandler[Any, Any]:
    """Wrap `method`, which takes a protobuf of the type `request` and may raise Refusal."""

    def handle(message: Any, context: grpc.ServicerContext) -> Message:
        try:
            refuse_unknown_fields(message)
            return method(message, context)
        except Refusal as refusal:
            context.abort(refusal.code, str(refusal))
            raise

    return grpc.unary_unary_rpc_method_handler(
        handle, request.pb().FromString, lambda answer: answer.SerializeToString()
    )


def streaming(
    method: Callable[[Iterator[Any], grpc.ServicerContext], Iterable[Message]], request: Any
) -> grpc.RpcMethodHandler[Any, Any]:
    """Wrap a bidirectional `method` in the same way."""

    def handle(messages: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Message]:
        try:
            yield from method(messages, context)
        except Refusal as refusal:
            context.abort(refusal.code, str(refusal))

    return grpc.stream_stream_rpc_method_handler(
        handle, request.pb().FromString, lambda answer: answer.SerializeToString()
    )


def _refusing(feature: str) -> grpc.RpcMethodHandler[Any, Any]:
    def handle(_message: bytes, context: grpc.ServicerContext) -> bytes:
        refusal = Unimplemented(feature)
        context.abort(refusal.code, str(refusal))
        raise refusal

    return grpc.unary_unary_rpc_method_handler(handle)


def refuse_unknown_fields(message: Message) -> None:
    """Raise Unimplemented when the client sent a field that these types do not know yet."""
    unknown = UnknownFieldSet(message)
    if len(unknown):
        raise Unimplemented(
            f"field number {unknown[0].field_number} of {message.DESCRIPTOR.full_name}"
        )
    for field, value in message.ListFields():
        kind = field.message_type
        if kind is None or kind.GetOptions().map_entry:
            continue
        for inner in value if field.is_repeated else (value,):
            refuse_unknown_fields(inner)


def refuse_unsupported(
    message: Message, supported: Collection[str], output_only: Collection[str] = ()
) -> None:
    """Raise Unimplemented naming the first field set in `message` outside `supported`.

    What is `output_only` may be sent back as it was read: Google ignores it too.
    """
    for field, _value in message.ListFields():
        if field.name not in supported and field.name not in output_only:
            raise Unimplemented(f"{message.DESCRIPTOR.name}.{field.name}")


def check_mask(
    paths: Collection[str], resource: Message, mutable: Collection[str], fixed: Collection[str]
) -> None:
    """Raise unless every path of an update mask names a field that may be updated here."""
    kind = resource.DESCRIPTOR.name
    if not paths:
        raise InvalidArgument(f"The update_mask in the Update{kind}Request must be set")
    for path in paths:
        head = path.split(".")[0]
        if head not in resource.DESCRIPTOR.fields_by_name:
            raise InvalidArgument(f"Invalid update_mask: {path} is not a known {kind} field")
        if head in fixed:
            raise InvalidArgument(f"Invalid update_mask: {kind}.{head} is not mutable")
        if path not in mutable:
            raise Unimplemented(f"an update of {kind}.{path}")


def copy_fields(paths: Collection[str], source: Any, target: Any) -> None:
    """Make the top-level fields `paths` of `target` what they are in `source`, set or not."""
    for path in paths:
        target.ClearField(path)
    for field, value in source.ListFields():
        if field.name not in paths:
            continue
        if field.type == field.TYPE_MESSAGE or field.is_repeated:
            getattr(target, field.name).MergeFrom(value)
        else:
            setattr(target, field.name, value)


def page(page_size: int) -> int:
    """Return how many results one answer holds; 0 leaves the choice to the server."""
    if page_size < 0:
        raise InvalidArgument(f"page_size is {page_size}; it cannot be negative")
    return min(page_size or MAX_PAGE, MAX_PAGE)


def duration_us(duration: duration_pb2.Duration) -> int:
    """Return a Duration in microseconds."""
    return int(duration.seconds) * SECOND_US + int(duration.nanos) // 1000


def timestamp(moment_us: int) -> timestamp_pb2.Timestamp:
    """Return a Timestamp of microseconds since 1970."""
    return timestamp_pb2.Timestamp(
        seconds=moment_us // SECOND_US, nanos=moment_us % SECOND_US * 1000
    )
