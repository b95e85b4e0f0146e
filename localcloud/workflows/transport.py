"""gRPC: google.cloud.workflows.executions.v1.Executions and google.cloud.workflows.v1.Workflows."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from google.cloud import workflows_v1
from google.cloud.workflows import executions_v1
from google.longrunning import operations_pb2  # type: ignore[import-untyped]
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from localcloud.workflows.filters import Invalid, Unsupported, parse_filter, sort
from localcloud.workflows.store import ACTIVE, ExecutionRecord, Revision

EXECUTIONS = "google.cloud.workflows.executions.v1.Executions"
WORKFLOWS = "google.cloud.workflows.v1.Workflows"
DEFAULT_PAGE, FULL_PAGE, BASIC_PAGE = 100, 100, 1000
WORKFLOWS_PAGE, WORKFLOWS_PAGE_MAX = 500, 1000

Execution = executions_v1.Execution
View = executions_v1.ExecutionView
T = TypeVar("T")


class Refused(Exception):
    """A request that cannot be served; `code` is the gRPC status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Backend(Protocol):
    """What the service offers to its transport; every method may raise Refused."""

    def create_execution(
        self, workflow: str, argument: str, labels: dict[str, str], call_log_level: str
    ) -> ExecutionRecord:
        """Start an execution of the latest revision."""
        ...

    def get_execution(self, workflow: str, execution: str) -> ExecutionRecord:
        """Return an execution."""
        ...

    def list_executions(self, workflow: str) -> list[ExecutionRecord]:
        """Return all executions of a workflow, the newest first."""
        ...

    def cancel_execution(self, workflow: str, execution: str) -> ExecutionRecord:
        """Cancel an active execution."""
        ...

    def current_steps(self, record: ExecutionRecord) -> list[tuple[str, str]]:
        """Return (routine, step) of what runs now, or ran last."""
        ...

    def revision(self, workflow: str, revision_id: str) -> Revision:
        """Return a revision of a workflow, the latest where the id is empty."""
        ...

    def workflow_ids(self) -> list[str]:
        """Return the ids of the deployed workflows, sorted."""
        ...

    def created(self, workflow: str) -> float:
        """Return when a workflow was first deployed, in seconds since 1970."""
        ...


class Transport:
    """Decodes requests, calls the backend, encodes answers; holds no state."""

    def __init__(self, backend: Backend, project: str, project_number: str, region: str) -> None:
        self._backend = backend
        self._projects = (project, project_number)
        self._project, self._region = project, region

    def handlers(self) -> Sequence[grpc.GenericRpcHandler[Any, Any]]:
        """Return the handlers of both services."""
        executions = {
            "CreateExecution": _method(
                self.create_execution, executions_v1.CreateExecutionRequest, Execution
            ),
            "GetExecution": _method(
                self.get_execution, executions_v1.GetExecutionRequest, Execution
            ),
            "ListExecutions": _method(
                self.list_executions,
                executions_v1.ListExecutionsRequest,
                executions_v1.ListExecutionsResponse,
            ),
            "CancelExecution": _method(
                self.cancel_execution, executions_v1.CancelExecutionRequest, Execution
            ),
        }
        workflows = {
            "GetWorkflow": _method(
                self.get_workflow, workflows_v1.GetWorkflowRequest, workflows_v1.Workflow
            ),
            "ListWorkflows": _method(
                self.list_workflows,
                workflows_v1.ListWorkflowsRequest,
                workflows_v1.ListWorkflowsResponse,
            ),
            **{
                name: _unimplemented(name)
                for name in (
                    "CreateWorkflow", "UpdateWorkflow", "DeleteWorkflow", "ListWorkflowRevisions",
                )
            },
        }  # fmt: skip
        return (
            grpc.method_handlers_generic_handler(EXECUTIONS, executions),
            grpc.method_handlers_generic_handler(WORKFLOWS, workflows),
        )

    def create_execution(self, request: executions_v1.CreateExecutionRequest) -> Execution:
        """Start an execution; fields that only the service sets are not looked at."""
        workflow = self._workflow_of(request.parent)
        asked = request.execution
        record = self._backend.create_execution(
            workflow, asked.argument, dict(asked.labels), asked.call_log_level.name
        )
        return self._execution(record, View.FULL)

    def get_execution(self, request: executions_v1.GetExecutionRequest) -> Execution:
        """Return an execution, in full unless the basic view is asked for."""
        record = self._backend.get_execution(*self._execution_of(request.name))
        return self._execution(record, request.view or View.FULL)

    def list_executions(
        self, request: executions_v1.ListExecutionsRequest
    ) -> executions_v1.ListExecutionsResponse:
        """Return one page of a workflow's executions."""
        workflow = self._workflow_of(request.parent)
        view = request.view or View.BASIC
        try:
            matches = parse_filter(request.filter)
            records = [
                record for record in self._backend.list_executions(workflow) if matches(record)
            ]
            records = sort(records, request.order_by)
        except Unsupported as wrong:
            raise Refused(grpc.StatusCode.UNIMPLEMENTED, str(wrong)) from None
        except Invalid as wrong:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, str(wrong)) from None
        largest = FULL_PAGE if view == View.FULL else BASIC_PAGE
        bound = f"{request.parent}\n{view}\n{request.filter}\n{request.order_by}"
        page, token = _page(
            records, request.page_size, request.page_token, DEFAULT_PAGE, largest, bound
        )
        return executions_v1.ListExecutionsResponse(
            executions=[self._execution(record, view) for record in page], next_page_token=token
        )

    def cancel_execution(self, request: executions_v1.CancelExecutionRequest) -> Execution:
        """Cancel an execution; from the answer on it starts no further step."""
        record = self._backend.cancel_execution(*self._execution_of(request.name))
        return self._execution(record, View.FULL)

    def get_workflow(self, request: workflows_v1.GetWorkflowRequest) -> workflows_v1.Workflow:
        """Return a workflow, at its latest or a named revision."""
        workflow = self._workflow_of(request.name)
        return self._workflow(self._backend.revision(workflow, request.revision_id))

    def list_workflows(
        self, request: workflows_v1.ListWorkflowsRequest
    ) -> workflows_v1.ListWorkflowsResponse:
        """Return one page of the workflows, by id."""
        self._location(request.parent)
        for name in ("filter", "order_by"):
            if getattr(request, name):
                raise Refused(
                    grpc.StatusCode.UNIMPLEMENTED, f"ListWorkflows: {name} is not supported"
                )
        page, token = _page(
            self._backend.workflow_ids(),
            request.page_size,
            request.page_token,
            WORKFLOWS_PAGE,
            WORKFLOWS_PAGE_MAX,
            request.parent,
        )
        return workflows_v1.ListWorkflowsResponse(
            workflows=[self._workflow(self._backend.revision(workflow, "")) for workflow in page],
            next_page_token=token,
        )

    def _location(self, name: str) -> None:
        self._segments(name, ("projects", "locations"))

    def _workflow_of(self, name: str) -> str:
        return self._segments(name, ("projects", "locations", "workflows"))[2]

    def _execution_of(self, name: str) -> tuple[str, str]:
        parts = self._segments(name, ("projects", "locations", "workflows", "executions"))
        return parts[2], parts[3]

    def _segments(self, name: str, kinds: tuple[str, ...]) -> list[str]:
        parts = name.split("/")
        if tuple(parts[::2]) != kinds or len(parts) != 2 * len(kinds) or not all(parts[1::2]):
            shape = "/".join(f"{kind}/*" for kind in kinds)
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"{name!r} is not of the form {shape}")
        values = parts[1::2]
        if values[0] not in self._projects or values[1] != self._region:
            raise Refused(
                grpc.StatusCode.NOT_FOUND,
                f"{name!r}: this service holds project {self._project!r} in {self._region!r} only",
            )
        return values

    def _name(self, *rest: str) -> str:
        return "/".join(("projects", self._project, "locations", self._region, *rest))

    def _execution(self, record: ExecutionRecord, view: int) -> Execution:
        answer = Execution(
            name=self._name("workflows", record.workflow, "executions", record.id),
            start_time=_time(record.started),
            state=getattr(Execution.State, record.state),
            workflow_revision_id=record.revision_id,
        )
        if record.ended is not None:
            answer.end_time = _time(record.ended)
            answer.duration = _duration(record.ended - record.started)
        if view == View.BASIC:
            return answer
        answer.argument = record.argument
        answer.call_log_level = getattr(Execution.CallLogLevel, record.call_log_level)
        answer.labels = dict(record.labels)
        if record.result is not None:
            answer.result = record.result
        if record.error is not None:
            answer.error = _error(record)
        answer.status = Execution.Status(
            current_steps=[
                Execution.Status.Step(routine=routine, step=step)
                for routine, step in self._backend.current_steps(record)
            ]
        )
        return answer

    def _workflow(self, revision: Revision) -> workflows_v1.Workflow:
        email = revision.service_account
        return workflows_v1.Workflow(
            name=self._name("workflows", revision.workflow),
            state=getattr(workflows_v1.Workflow.State, ACTIVE),
            revision_id=revision.revision_id,
            create_time=_time(self._backend.created(revision.workflow)),
            update_time=_time(revision.created),
            revision_create_time=_time(revision.created),
            service_account=f"projects/{self._project}/serviceAccounts/{email}",
            source_contents=revision.source,
            user_env_vars=dict(revision.environment),
        )


def _method(
    serve: Callable[[Any], Any], request_type: Any, response_type: Any
) -> grpc.RpcMethodHandler[Any, Any]:
    def handle(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            _refuse_unknown_fields(request)
            return serve(request)
        except Refused as refused:
            context.abort(refused.code, str(refused))

    return grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=request_type.deserialize,
        response_serializer=response_type.serialize,
    )


def _unimplemented(name: str) -> grpc.RpcMethodHandler[Any, Any]:
    def handle(_: Any, context: grpc.ServicerContext) -> NoReturn:
        context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            f"{name} is not supported: workflows are deployed from the files of the local cloud",
        )

    return grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=lambda content: content,
        response_serializer=operations_pb2.Operation.SerializeToString,
    )


def _refuse_unknown_fields(request: Any) -> None:
    messages = [type(request).pb(request)]
    if isinstance(request, executions_v1.CreateExecutionRequest):
        messages.append(messages[0].execution)
    for message in messages:
        unknown = UnknownFieldSet(message)
        if len(unknown):
            raise Refused(
                grpc.StatusCode.UNIMPLEMENTED,
                f"field {unknown[0].field_number} of {message.DESCRIPTOR.name} is not supported",
            )


def _page(
    items: list[T], size: int, token: str, default: int, largest: int, bound: str
) -> tuple[list[T], str]:
    """Return a page and the token of the next; a token is good only for the same request."""
    if size < 0:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "page_size is below 0")
    fingerprint = hashlib.sha256(bound.encode()).hexdigest()[:16]
    start = 0
    if token:
        try:
            start, made_for = json.loads(base64.urlsafe_b64decode(token))
        except (binascii.Error, ValueError, TypeError):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "page_token is not valid") from None
        if made_for != fingerprint:
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT, "page_token was made for another request"
            )
    end = start + min(size or default, largest)
    more = json.dumps([end, fingerprint]).encode()
    return items[start:end], base64.urlsafe_b64encode(more).decode() if end < len(items) else ""


def _error(record: ExecutionRecord) -> Execution.Error:
    assert record.error is not None
    elements = [
        Execution.StackTraceElement(
            step=place["step"],
            routine=place["routine"],
            position={"line": place["line"], "column": place["column"]},
        )
        for place in record.error.places
    ]
    return Execution.Error(
        payload=record.error.payload,
        context=record.error.context,
        stack_trace=Execution.StackTrace(elements=elements),
    )


def _time(seconds: float) -> Timestamp:
    time = Timestamp()
    time.FromDatetime(dt.datetime.fromtimestamp(seconds, dt.UTC))
    return time


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1_000_000))
    return duration
