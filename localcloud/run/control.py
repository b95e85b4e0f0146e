"""The use cases of the Services, Revisions and Operations APIs."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Sequence
from typing import Any

import grpc
from google.longrunning import operations_pb2

from localcloud.run import specification
from localcloud.run.errors import AlreadyExists, FailedPrecondition, NotFound, check_etag
from localcloud.run.messages import FAILED, RECONCILING, Service, condition, now
from localcloud.run.names import (
    Names,
    check_service_id,
    location_of,
    new_operation_name,
    refuse_second_region,
)
from localcloud.run.reconcile import Verdict
from localcloud.run.reconciler import Reconciler, end
from localcloud.run.revisions import Revisions
from localcloud.run.store import OperationRecord, RevisionRecord, ServiceRecord, Store


class Control:
    """Changes what is asked for in one transaction, then has it made true.

    An answered write is on disk.
    """

    def __init__(self, store: Store, names: Names, reconciler: Reconciler) -> None:
        self._store = store
        self._names = names
        self._reconciler = reconciler
        self._revisions = Revisions(store)

    # -- services

    def create(self, parent: str, service_id: str, given: Any, validate_only: bool) -> Any:
        """Create a service; return the operation."""
        self._names.check_parent(parent)
        check_service_id(service_id)
        name = f"{parent}/services/{service_id}"
        specification.refuse_unsupported(given, ())
        with self._store.transaction():
            if self._found(name) is not None:
                raise AlreadyExists(f"Resource '{name}' already exists")
            record = self._new_record(name)
            spec = specification.merged(record.service, given, ())
            operation = self._write(record, spec, validate_only)
        return self._settled(service_id, operation, validate_only)

    def update(
        self, given: Any, paths: Sequence[str], validate_only: bool, allow_missing: bool
    ) -> Any:
        """Replace the masked fields (without a mask, all); return the operation."""
        service_id = self._names.service_id(given.name)
        specification.refuse_unsupported(given, paths)
        with self._store.transaction():
            record = self._found(given.name)
            if record is None:
                if not allow_missing:
                    raise NotFound(given.name)
                check_service_id(service_id)
                record = self._new_record(given.name)
            check_etag(given.name, given.etag, record.service.etag)
            spec = specification.merged(record.service, given, paths)
            operation = self._write(record, spec, validate_only)
        return self._settled(service_id, operation, validate_only)

    def delete(self, name: str, etag: str, validate_only: bool) -> Any:
        """Delete a service with its revisions; return the operation, which is done."""
        service_id = self._names.service_id(name)
        with self._reconciler.exclusive():
            operation = self._forget(service_id, name, etag, validate_only)
            if not validate_only:
                self._reconciler.remove(service_id)
        return operation

    def _forget(self, service_id: str, name: str, etag: str, validate_only: bool) -> Any:
        with self._store.transaction():
            record = self._existing(name)
            check_etag(name, etag, record.service.etag)
            record.service.delete_time.CopyFrom(now())
            operation = self._operation(record, "")
            operation.operation.done = True
            operation.operation.response.Pack(record.service)
            if not validate_only:
                gone = Verdict(
                    FAILED, f"Service '{name}' was deleted.", code=grpc.StatusCode.ABORTED
                )
                for waiting in self._store.open_operations(service_id):
                    end(waiting.operation, gone)
                    self._store.put_operation(waiting)
                self._store.delete_service(service_id)
                self._store.put_operation(operation)
        return operation.operation

    def get(self, name: str) -> Any:
        return self._existing(name).service

    def all(self, parent: str) -> list[Any]:
        self._names.check_parent(parent)
        services = [record.service for record in self._store.services()]
        return [service for service in services if location_of(service.name) == parent]

    # -- revisions

    def revision(self, name: str) -> Any:
        return self._existing_revision(name).revision

    def revisions(self, parent: str) -> list[Any]:
        service_id = self._names.service_ids(parent)
        if service_id is not None:
            self._existing(parent)
        revisions = [record.revision for record in self._store.revisions(service_id)]
        location = location_of(parent)
        return [revision for revision in revisions if location_of(revision.name) == location]

    def delete_revision(self, name: str, etag: str, validate_only: bool) -> Any:
        """Delete a revision that nothing leads to; return the operation, which is done."""
        with self._store.transaction():
            revision = self._existing_revision(name)
            check_etag(name, etag, revision.revision.etag)
            record = self._existing(name.rpartition("/revisions/")[0])
            self._check_unused(revision.name, record)
            revision.revision.delete_time.CopyFrom(now())
            operation = self._operation(record, "")
            operation.operation.done = True
            operation.operation.metadata.Pack(revision.revision)
            operation.operation.response.Pack(revision.revision)
            if validate_only:
                return operation.operation
            revision.state = "deleted"
            self._store.put_revision(revision)
            self._store.put_operation(operation)
        self._reconciler.reconcile(revision.service_id)
        return operation.operation

    def _check_unused(self, revision: str, record: ServiceRecord) -> None:
        if revision in (record.latest_created, record.latest_ready):
            raise FailedPrecondition(
                f"Revision '{revision}' is the latest of its service and cannot be deleted"
            )
        named = {target.revision for target in record.service.traffic}
        if revision in named | {route.revision for route in record.routes}:
            raise FailedPrecondition(
                f"Revision '{revision}' has traffic or a tag; take it out of the traffic first"
            )

    # -- operations

    def operation(self, name: str) -> Any:
        record = self._store.operation(name)
        if record is None:
            raise NotFound(name)
        return record.operation

    def operations(self, parent: str) -> list[Any]:
        self._names.check_parent(parent)
        operations = [record.operation for record in self._store.operations()]
        return [operation for operation in operations if location_of(operation.name) == parent]

    def wait_operation(self, name: str, timeout_s: float) -> Any:
        """Return the operation once it is done, or as it is after `timeout_s`."""
        self._reconciler.wait(lambda: self.operation(name).done, timeout_s)
        return self.operation(name)

    def delete_operation(self, name: str) -> None:
        """Forget a finished operation."""
        if not self.operation(name).done:
            raise FailedPrecondition(f"Operation '{name}' is still running")
        self._store.delete_operation(name)

    # -- writing a specification

    def _write(self, record: ServiceRecord, spec: Any, validate_only: bool) -> Any:
        """Store the specification, its new revision if it makes one, and the operation."""
        service = specification.completed(spec)
        specification.check(record.id, service)
        revision = self._revisions.wanted(record, service)
        service.generation += 1
        # Every accepted write changes the etag, also one that changes nothing else: whoever
        # read before it must read again.
        service.etag = f'"{secrets.token_urlsafe(12)}"'
        service.update_time.CopyFrom(now())
        service.reconciling = True
        service.terminal_condition.CopyFrom(condition("Ready", RECONCILING))
        record.service = service
        made = revision is not None and revision.state == "deploying"
        operation = self._operation(record, revision.name if revision and made else "")
        if validate_only:
            operation.operation.done = True
            operation.operation.response.Pack(service)
            return operation.operation
        if revision is not None:
            record.latest_created = revision.name
            service.latest_created_revision = revision.revision.name
            self._store.put_revision(revision)
        self._store.put_service(record)
        self._store.put_operation(operation)
        return operation.operation

    def _new_record(self, name: str) -> ServiceRecord:
        service_id = self._names.service_id(name)
        taken = self._store.service(service_id)
        if taken is not None:
            refuse_second_region(taken.service.name, name)
        service = Service(name=name, uid=str(uuid.uuid4()))
        service.create_time.CopyFrom(now())
        return ServiceRecord(service_id, service, (), "", "", 0, 0)

    def _operation(self, record: ServiceRecord, revision: str) -> OperationRecord:
        operation = operations_pb2.Operation(name=new_operation_name(record.service.name))
        operation.metadata.Pack(record.service)
        return OperationRecord(record.id, record.service.generation, revision, operation)

    def _settled(self, service_id: str, operation: Any, validate_only: bool) -> Any:
        """Make the write true as far as it goes at once; return the operation as it is then."""
        if validate_only:
            return operation
        self._reconciler.reconcile(service_id)
        record = self._store.operation(operation.name)
        return record.operation if record is not None else operation

    def _found(self, name: str) -> ServiceRecord | None:
        record = self._store.service(self._names.service_id(name))
        return record if record is not None and record.service.name == name else None

    def _existing(self, name: str) -> ServiceRecord:
        record = self._found(name)
        if record is None:
            raise NotFound(name)
        return record

    def _existing_revision(self, name: str) -> RevisionRecord:
        record = self._store.revision(self._names.revision_id(name))
        if record is None or record.state == "deleted" or record.revision.name != name:
            raise NotFound(name)
        return record
