"""The gRPC side: Jobs, Executions and Tasks as Google's clients call them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from google.cloud import run_v2
from google.longrunning import operations_pb2

from localcloud.run.jobs.control import Control
from localcloud.run.methods import Method, generic, page_of, refuse_deleted
from localcloud.run.template import refuse_unknown_fields


class Transport:
    """Decodes requests, calls the use cases, encodes answers."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def handlers(self) -> Sequence[grpc.GenericRpcHandler[Any, Any]]:
        """Return the generic handlers for one gRPC server."""
        operation = operations_pb2.Operation
        jobs: dict[str, tuple[Method, Any, Any]] = {
            "CreateJob": (self._create, run_v2.CreateJobRequest.pb(), operation),
            "GetJob": (self._get, run_v2.GetJobRequest.pb(), run_v2.Job.pb()),
            "ListJobs": (self._list, run_v2.ListJobsRequest.pb(), run_v2.ListJobsResponse.pb()),
            "UpdateJob": (self._update, run_v2.UpdateJobRequest.pb(), operation),
            "DeleteJob": (self._delete, run_v2.DeleteJobRequest.pb(), operation),
            "RunJob": (self._run, run_v2.RunJobRequest.pb(), operation),
        }
        executions: dict[str, tuple[Method, Any, Any]] = {
            "GetExecution": (
                self._get_execution,
                run_v2.GetExecutionRequest.pb(),
                run_v2.Execution.pb(),
            ),
            "ListExecutions": (
                self._list_executions,
                run_v2.ListExecutionsRequest.pb(),
                run_v2.ListExecutionsResponse.pb(),
            ),
            "DeleteExecution": (
                self._delete_execution,
                run_v2.DeleteExecutionRequest.pb(),
                operation,
            ),
            "CancelExecution": (self._cancel, run_v2.CancelExecutionRequest.pb(), operation),
        }
        tasks: dict[str, tuple[Method, Any, Any]] = {
            "GetTask": (self._get_task, run_v2.GetTaskRequest.pb(), run_v2.Task.pb()),
            "ListTasks": (
                self._list_tasks,
                run_v2.ListTasksRequest.pb(),
                run_v2.ListTasksResponse.pb(),
            ),
        }
        return [
            generic("google.cloud.run.v2.Jobs", jobs),
            generic("google.cloud.run.v2.Executions", executions),
            generic("google.cloud.run.v2.Tasks", tasks),
        ]

    # -- jobs

    def _create(self, request: Any, _context: grpc.ServicerContext) -> Any:
        refuse_unknown_fields(request, "CreateJob")
        return self._control.create(
            request.parent, request.job_id, request.job, request.validate_only
        )

    def _get(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._control.get(request.name)

    def _list(self, request: Any, _context: grpc.ServicerContext) -> Any:
        refuse_deleted(request)
        page, token = page_of(self._control.all(request.parent), request)
        return run_v2.ListJobsResponse.pb()(jobs=page, next_page_token=token)

    def _update(self, request: Any, _context: grpc.ServicerContext) -> Any:
        refuse_unknown_fields(request, "UpdateJob")
        return self._control.update(request.job, request.validate_only, request.allow_missing)

    def _delete(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._control.delete(request.name, request.etag, request.validate_only)

    def _run(self, request: Any, _context: grpc.ServicerContext) -> Any:
        refuse_unknown_fields(request, "RunJob")
        return self._control.run(
            request.name, request.etag, request.overrides, request.validate_only
        )

    # -- executions

    def _get_execution(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._control.execution(request.name)

    def _list_executions(self, request: Any, _context: grpc.ServicerContext) -> Any:
        refuse_deleted(request)
        page, token = page_of(self._control.executions(request.parent), request)
        return run_v2.ListExecutionsResponse.pb()(executions=page, next_page_token=token)

    def _delete_execution(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._control.delete_execution(request.name, request.etag, request.validate_only)

    def _cancel(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._control.cancel(request.name, request.etag, request.validate_only)

    # -- tasks

    def _get_task(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._control.task(request.name)

    def _list_tasks(self, request: Any, _context: grpc.ServicerContext) -> Any:
        refuse_deleted(request)
        page, token = page_of(self._control.tasks(request.parent), request)
        return run_v2.ListTasksResponse.pb()(tasks=page, next_page_token=token)
