"""Schemas: Protocol Buffer definitions, compiled once, that messages are checked against.

Source of the rules: cloud.google.com/pubsub/docs/schemas.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError, Message

from localcloud.database import Database
from localcloud.pubsub.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    Refusal,
    Unimplemented,
)
from localcloud.pubsub.names import check_name, check_project
from localcloud.pubsub.rpc import Schema, page, refuse_unsupported, timestamp

PROTOCOL_BUFFER, AVRO = 1, 2
JSON, BINARY = 1, 2
DELETED = "_deleted-schema_"
MAX_DEFINITION_BYTES = 300 * 1024
COMPILE_TIMEOUT_S = 60


class Schemas:
    """The schemas of all projects; each has the one revision it was created with."""

    def __init__(self, database: Database, now_us: Callable[[], int]) -> None:
        self._database = database
        self._now_us = now_us

    def create(self, parent: str, schema_id: str, schema: Any) -> Any:
        """Store a schema whose definition compiles and return it with its revision."""
        name = check_name(f"{check_project(parent)}/schemas/{schema_id}", "schemas")
        compiled = compile_schema(schema)
        made = Schema(
            name=name,
            type_=schema.type_,
            definition=schema.definition,
            revision_id=secrets.token_hex(4),
            revision_create_time=timestamp(self._now_us()),
        )
        with self._database.transaction() as db:
            # A repeated create finds the first one and changes nothing.
            if self._database.row("SELECT 1 FROM schemas WHERE name = ?", name):
                raise AlreadyExists("Schema", name)
            db.execute(
                "INSERT INTO schemas VALUES (?, ?, ?, ?)",
                (name, made.revision_id, made.SerializeToString(), compiled),
            )
        return made

    def get(self, name: str) -> Any:
        """Return the schema `projects/P/schemas/ID` or its revision `...@REVISION`."""
        return Schema.FromString(self._row(name)["config"])

    def list_page(self, parent: str, page_size: int, page_token: str) -> tuple[list[Any], str]:
        """Return a page of a project's schemas by name, and the next page's token."""
        prefix, limit = f"{check_project(parent)}/schemas/", page(page_size)
        rows = self._database.rows(
            "SELECT config FROM schemas WHERE name GLOB ? AND name > ? ORDER BY name LIMIT ?",
            prefix + "*",
            page_token,
            limit + 1,
        )
        found = [Schema.FromString(row["config"]) for row in rows]
        return found[:limit], found[limit - 1].name if len(found) > limit else ""

    def delete(self, name: str) -> None:
        """Remove a schema; the topics that use it refuse messages from then on."""
        check_name(name, "schemas")
        with self._database.transaction() as db:
            if db.execute("DELETE FROM schemas WHERE name = ?", (name,)).rowcount == 0:
                raise NotFound("Schema", name)

    def validate(self, name: str, encoding: int, data: bytes) -> str:
        """Return the revision id that `data` follows; InvalidArgument says what is wrong."""
        row = self._row(name)
        check_message(bytes(row["file_descriptor"]), encoding, data)
        return str(row["revision_id"])

    def _row(self, name: str) -> Any:
        plain, _, revision = name.partition("@")
        row = self._database.row(
            "SELECT * FROM schemas WHERE name = ? AND ? IN ('', revision_id)",
            check_name(plain, "schemas"),
            revision,
        )
        if row is None:
            raise NotFound("Schema", name)
        return row


def compile_schema(schema: Any) -> bytes:
    """Return the FileDescriptorProto of a schema's definition, serialized.

    Raises InvalidArgument with the compiler's words, Unimplemented for Avro, for compiled
    schemas and for imports.
    """
    refuse_unsupported(
        schema, {"name", "type_", "definition"}, {"revision_id", "revision_create_time"}
    )
    if schema.type_ == AVRO:
        raise Unimplemented("schemas of type AVRO")
    if schema.type_ != PROTOCOL_BUFFER:
        raise InvalidArgument("Invalid schema type: expected PROTOCOL_BUFFER")
    if len(schema.definition.encode()) > MAX_DEFINITION_BYTES:
        raise InvalidArgument(f"the definition is longer than {MAX_DEFINITION_BYTES} bytes")
    file = _protoc(schema.definition)
    if file.dependency:
        raise Unimplemented(f"imports in a schema ({', '.join(file.dependency)})")
    if len(file.message_type) != 1:
        raise InvalidArgument(
            f"Invalid schema definition: it has {len(file.message_type)} top-level messages; "
            "expected exactly one"
        )
    return file.SerializeToString()


def _protoc(definition: str) -> descriptor_pb2.FileDescriptorProto:
    with tempfile.TemporaryDirectory(prefix="pubsub-schema-") as name:
        folder = Path(name)
        (folder / "schema.proto").write_text(definition, encoding="utf-8")
        # A process of its own: the compiler writes its complaints to the process's stderr.
        ran = subprocess.run(
            [
                sys.executable, "-m", "grpc_tools.protoc", "--proto_path=.",
                "--descriptor_set_out=schema.bin", "schema.proto",
            ],
            cwd=folder, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False,
        )  # fmt: skip
        if ran.returncode != 0:
            reason = "; ".join(line for line in ran.stderr.splitlines() if "warning:" not in line)
            raise InvalidArgument(f"Invalid schema definition: {reason}")
        compiled = descriptor_pb2.FileDescriptorSet.FromString((folder / "schema.bin").read_bytes())
    return compiled.file[0]


@lru_cache(maxsize=64)
def _message_class(file_descriptor: bytes) -> type[Message]:
    file = descriptor_pb2.FileDescriptorProto.FromString(file_descriptor)
    # A pool of its own, so that two schemas may use the same names.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    name = ".".join(part for part in (file.package, file.message_type[0].name) if part)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def check_message(file_descriptor: bytes, encoding: int, data: bytes) -> None:
    """Raise InvalidArgument, saying why, unless `data` is a message of the schema.

    In JSON a field that the schema does not have is an error.
    """
    message: Any = _message_class(file_descriptor)()
    try:
        if encoding == JSON:
            text = data.decode("utf-8")
            if not text.lstrip().startswith("{"):
                raise _mismatch("expected a JSON object")
            json_format.Parse(text, message)
        elif encoding == BINARY:
            message.ParseFromString(data)
        else:
            raise InvalidArgument("Invalid schema encoding: expected JSON or BINARY")
    except (json_format.ParseError, DecodeError, ValueError, RecursionError) as error:
        raise _mismatch(str(error)) from error
    if not message.IsInitialized():
        missing = ", ".join(message.FindInitializationErrors())
        raise _mismatch(f"required fields are missing: {missing}")


def _mismatch(reason: str) -> Refusal:
    return InvalidArgument(
        "Invalid data in message: Message failed schema validation: "
        # The parsers break their lines, and a gRPC status is one.
        + " ".join(reason.split())
    )
