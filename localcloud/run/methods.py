"""What the gRPC services of Cloud Run have in common: decoding, refusals, pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc

from localcloud.run.errors import InvalidArgument, RunError, Unsupported

PAGE_SIZE = 100

Method = Callable[[Any, grpc.ServicerContext], Any]


def refuse_deleted(request: Any) -> None:
    """Raise Unsupported for a listing that asks for what was deleted."""
    if request.show_deleted:
        raise Unsupported("show_deleted (nothing deleted is kept)")


def page_of(resources: Sequence[Any], request: Any) -> tuple[Sequence[Any], str]:
    """Return one page and the token of the next; a token is the last name of its page."""
    if request.page_size < 0:
        raise InvalidArgument(f"page_size {request.page_size} is negative")
    begin = 0
    if request.page_token:
        names = [resource.name for resource in resources]
        if request.page_token not in names:
            raise InvalidArgument("page_token is not valid any more; list from the beginning")
        begin = names.index(request.page_token) + 1
    end = begin + min(request.page_size or PAGE_SIZE, PAGE_SIZE)
    page = resources[begin:end]
    return page, page[-1].name if end < len(resources) else ""


def generic(
    service: str, methods: Mapping[str, tuple[Method, Any, Any]]
) -> grpc.GenericRpcHandler[Any, Any]:
    """Return the handler of a gRPC service from {method: (call, request type, answer type)}."""
    handler: grpc.GenericRpcHandler[Any, Any] = grpc.method_handlers_generic_handler(
        service,
        {
            name: grpc.unary_unary_rpc_method_handler(
                _refusing(method),
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )
            for name, (method, request, response) in methods.items()
        },
    )
    return handler


def _refusing(method: Method) -> Method:
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(request, context)
        except RunError as error:
            context.abort(error.code, str(error))

    return call
