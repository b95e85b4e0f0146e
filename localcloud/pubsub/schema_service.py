"""google.pubsub.v1.SchemaService over gRPC."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import empty_pb2
from google.pubsub_v1 import types

from localcloud.database import Database
from localcloud.pubsub.errors import InvalidArgument
from localcloud.pubsub.names import check_project
from localcloud.pubsub.rpc import service, unary
from localcloud.pubsub.schemas import Schemas, check_message, compile_schema
from localcloud.pubsub.topics import Topics

BASIC, FULL = 1, 2


class SchemaService:
    """Decodes requests, calls schemas, encodes answers."""

    def __init__(self, database: Database, schemas: Schemas, topics: Topics) -> None:
        self._database = database
        self._schemas = schemas
        self._topics = topics

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Return the service's methods."""
        return service(
            "google.pubsub.v1.SchemaService",
            {
                "CreateSchema": unary(self._create, types.CreateSchemaRequest),
                "GetSchema": unary(self._get, types.GetSchemaRequest),
                "ListSchemas": unary(self._list, types.ListSchemasRequest),
                "ListSchemaRevisions": unary(
                    self._list_revisions, types.ListSchemaRevisionsRequest
                ),
                "DeleteSchema": unary(self._delete, types.DeleteSchemaRequest),
                "ValidateSchema": unary(self._validate_schema, types.ValidateSchemaRequest),
                "ValidateMessage": unary(self._validate_message, types.ValidateMessageRequest),
            },
            {
                method: f"further revisions of a schema (SchemaService.{method})"
                for method in ("CommitSchema", "RollbackSchema", "DeleteSchemaRevision")
            },
        )

    def _create(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._schemas.create(request.parent, request.schema_id, request.schema)

    def _get(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return _view(self._schemas.get(request.name), request.view or FULL)

    def _list(self, request: Any, _context: grpc.ServicerContext) -> Any:
        schemas, token = self._schemas.list_page(
            request.parent, request.page_size, request.page_token
        )
        return types.ListSchemasResponse.pb()(
            schemas=[_view(schema, request.view or BASIC) for schema in schemas],
            next_page_token=token,
        )

    def _list_revisions(self, request: Any, _context: grpc.ServicerContext) -> Any:
        schema = _view(self._schemas.get(request.name), request.view or FULL)
        return types.ListSchemaRevisionsResponse.pb()(schemas=[schema])

    def _delete(self, request: Any, _context: grpc.ServicerContext) -> Any:
        with self._database.transaction():
            self._schemas.delete(request.name)
            self._topics.forget_schema(request.name)
        return empty_pb2.Empty()

    def _validate_schema(self, request: Any, _context: grpc.ServicerContext) -> Any:
        check_project(request.parent)
        compile_schema(request.schema)
        return types.ValidateSchemaResponse.pb()()

    def _validate_message(self, request: Any, _context: grpc.ServicerContext) -> Any:
        check_project(request.parent)
        given = request.WhichOneof("schema_spec")
        if given == "name":
            self._schemas.validate(request.name, request.encoding, request.message)
        elif given == "schema":
            check_message(compile_schema(request.schema), request.encoding, request.message)
        else:
            raise InvalidArgument("ValidateMessage needs a schema's name or a schema")
        return types.ValidateMessageResponse.pb()()


def _view(schema: Any, view: int) -> Any:
    if view != FULL:
        schema.ClearField("definition")
    return schema
