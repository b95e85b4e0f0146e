"""The gRPC side: Services, Revisions and Operations as Google's clients call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
from google.cloud import run_v2
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from localcloud.run.control import Control
from localcloud.run.errors import InvalidArgument, RunError, Unsupported
from localcloud.run.names import Location
from localcloud.run.policy import Policies
from localcloud.run.reconciler import Reconciler
from localcloud.run.refuse import RefuseTheRest

PAGE_SIZE = 100
LONGEST_WAIT_S = 60.0
_OURS = ("/google.cloud.run.", "/google.longrunning.Operations/")

Method = Callable[[Any, grpc.ServicerContext], Any]


class Transport:
    """Decodes requests, calls the use cases, encodes answers and refusals."""

    def __init__(
        self,
        control: Control,
        reconciler: Reconciler,
        policies: Policies,
        location: Location,
    ) -> None:
        self._control = control
        self._reconciler = reconciler
        self._policies = policies
        self._location = location

    def handlers(self) -> Sequence[grpc.GenericRpcHandler[Any, Any]]:
        """Return the generic handlers for one gRPC server."""
        operation = operations_pb2.Operation
        services: dict[str, tuple[Method, Any, Any]] = {
            "CreateService": (self._create, run_v2.CreateServiceRequest.pb(), operation),
            "GetService": (self._get, run_v2.GetServiceRequest.pb(), run_v2.Service.pb()),
            "ListServices": (
                self._list,
                run_v2.ListServicesRequest.pb(),
                run_v2.ListServicesResponse.pb(),
            ),
            "UpdateService": (self._update, run_v2.UpdateServiceRequest.pb(), operation),
            "DeleteService": (self._delete, run_v2.DeleteServiceRequest.pb(), operation),
            "GetIamPolicy": (
                self._get_policy,
                iam_policy_pb2.GetIamPolicyRequest,
                policy_pb2.Policy,
            ),
            "SetIamPolicy": (
                self._set_policy,
                iam_policy_pb2.SetIamPolicyRequest,
                policy_pb2.Policy,
            ),
        }
        revisions: dict[str, tuple[Method, Any, Any]] = {
            "GetRevision": (
                self._get_revision,
                run_v2.GetRevisionRequest.pb(),
                run_v2.Revision.pb(),
            ),
            "ListRevisions": (
                self._list_revisions,
                run_v2.ListRevisionsRequest.pb(),
                run_v2.ListRevisionsResponse.pb(),
            ),
            "DeleteRevision": (
                self._delete_revision,
                run_v2.DeleteRevisionRequest.pb(),
                operation,
            ),
        }
        operations: dict[str, tuple[Method, Any, Any]] = {
            "GetOperation": (
                self._get_operation,
                operations_pb2.GetOperationRequest,
                operation,
            ),
            "WaitOperation": (
                self._wait_operation,
                operations_pb2.WaitOperationRequest,
                operation,
            ),
            "ListOperations": (
                self._list_operations,
                operations_pb2.ListOperationsRequest,
                operations_pb2.ListOperationsResponse,
            ),
            "DeleteOperation": (
                self._delete_operation,
                operations_pb2.DeleteOperationRequest,
                empty_pb2.Empty,
            ),
        }
        return [
            _generic("google.cloud.run.v2.Services", services),
            _generic("google.cloud.run.v2.Revisions", revisions),
            _generic("google.longrunning.Operations", operations),
            RefuseTheRest(_OURS, "local Cloud Run"),
        ]

    # -- services

    def _create(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._control.create(
            request.parent, request.service_id, request.service, request.validate_only
        )

    def _get(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._control.get(request.name)

    def _list(self, request: Any, _context: grpc.ServicerContext) -> Any:
        _refuse_deleted(request)
        page, token = _page(self._control.all(request.parent), request)
        return run_v2.ListServicesResponse.pb()(services=page, next_page_token=token)

    def _update(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._control.update(
            request.service,
            request.update_mask.paths,
            request.validate_only,
            request.allow_missing,
        )

    def _delete(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._control.delete(request.name, request.etag, request.validate_only)

    # -- policies

    def _get_policy(self, request: Any, _context: grpc.ServicerContext) -> Any:
        service_id = self._location.service_id(request.resource)
        self._control.get(request.resource)
        return self._policies.get(service_id)

    def _set_policy(self, request: Any, _context: grpc.ServicerContext) -> Any:
        service_id = self._location.service_id(request.resource)
        if request.update_mask.paths:
            raise Unsupported("SetIamPolicy update_mask")
        self._control.get(request.resource)
        policy = self._policies.put(service_id, request.resource, request.policy)
        self._reconciler.reconcile(service_id)
        return policy

    # -- revisions

    def _get_revision(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._control.revision(request.name)

    def _list_revisions(self, request: Any, _context: grpc.ServicerContext) -> Any:
        _refuse_deleted(request)
        page, token = _page(self._control.revisions(request.parent), request)
        return run_v2.ListRevisionsResponse.pb()(revisions=page, next_page_token=token)

    def _delete_revision(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._control.delete_revision(request.name, request.etag, request.validate_only)

    # -- operations

    def _get_operation(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._control.operation(request.name)

    def _wait_operation(self, request: Any, context: grpc.ServicerContext) -> Any:
        timeout_s = LONGEST_WAIT_S
        if request.HasField("timeout"):
            timeout_s = request.timeout.seconds + request.timeout.nanos / 1e9
        left_s = context.time_remaining()
        limits = (timeout_s, LONGEST_WAIT_S, *(() if left_s is None else (left_s,)))
        return self._control.wait_operation(request.name, min(limits))

    def _list_operations(self, request: Any, _context: grpc.ServicerContext) -> Any:
        if request.filter:
            raise Unsupported("ListOperations filter")
        page, token = _page(self._control.operations(request.name), request)
        return operations_pb2.ListOperationsResponse(operations=page, next_page_token=token)

    def _delete_operation(self, request: Any, _context: grpc.ServicerContext) -> Any:
        self._control.delete_operation(request.name)
        return empty_pb2.Empty()


def _refuse_deleted(request: Any) -> None:
    if request.show_deleted:
        raise Unsupported("show_deleted (nothing deleted is kept)")


def _page(resources: Sequence[Any], request: Any) -> tuple[Sequence[Any], str]:
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


def _generic(
    service: str, methods: Mapping[str, tuple[Method, Any, Any]]
) -> grpc.GenericRpcHandler[Any, Any]:
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
