"""A gRPC handler for what is not here: says so by name."""

from __future__ import annotations

from typing import Any

import grpc


class RefuseTheRest(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Answers UNIMPLEMENTED naming the method, instead of gRPC's bare "Method not found!".

    `prefixes` are the beginnings of method paths that this answers for, such as
    "/google.cloud.run."; register it after the handlers of what is offered.
    """

    def __init__(self, prefixes: tuple[str, ...], by: str) -> None:
        self._prefixes = prefixes
        self._by = by

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method
        if not method.startswith(self._prefixes):
            return None

        def refuse(_request: bytes, context: grpc.ServicerContext) -> None:
            context.abort(
                grpc.StatusCode.UNIMPLEMENTED, f"{method[1:]} is not supported by the {self._by}"
            )

        return grpc.unary_unary_rpc_method_handler(refuse)
