"""The gRPC side: Services, Revisions and Operations as Google's clients call them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from google.cloud import run_v2
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from localcloud.run.control import Control
from localcloud.run.errors import Unsupported
from localcloud.run.methods import Method, generic, page_of, refuse_deleted
from localcloud.run.names import Names
from localcloud.run.policy import Policies
from localcloud.run.reconciler import Reconciler

LONGEST_WAIT_S = 60.0


class Transport:
    """Decodes requests, calls the use cases, encodes answers and refusals."""

    def __init__(
        self,
        control: Control,
        reconciler: Reconciler,
        policies: Policies,
        names: Names,
    ) -> None:
        self._control = control
        self._reconciler = reconciler
        self._policies = policies
        self._names = names

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
            generic("google.cloud.run.v2.Services", services),
            generic("google.cloud.run.v2.Revisions", revisions),
            generic("google.longrunning.Operations", operations),
        ]

    # -- services

    def _create(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._control.create(
            request.parent, request.service_id, request.service, request.validate_only
        )

    def _get(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._control.get(request.name)

    def _list(self, request: Any, _context: grpc.ServicerContext) -> Any:
        refuse_deleted(request)
        page, token = page_of(self._control.all(request.parent), request)
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
        service_id = self._names.service_id(request.resource)
        self._control.get(request.resource)
        return self._policies.get(service_id)

    def _set_policy(self, request: Any, _context: grpc.ServicerContext) -> Any:
        service_id = self._names.service_id(request.resource)
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
        refuse_deleted(request)
        page, token = page_of(self._control.revisions(request.parent), request)
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
        page, token = page_of(self._control.operations(request.name), request)
        return operations_pb2.ListOperationsResponse(operations=page, next_page_token=token)

    def _delete_operation(self, request: Any, _context: grpc.ServicerContext) -> Any:
        self._control.delete_operation(request.name)
        return empty_pb2.Empty()
