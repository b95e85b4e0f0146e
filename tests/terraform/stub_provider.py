"""A Terraform provider that knows a schema and nothing else: `init`, `validate` and `test` run
offline with it, where `mock_provider` stands in for what a provider does.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

SCHEMA = Path(__file__).parent / "google.schema.json.gz"
PROVIDER = "registry.terraform.io/hashicorp/google"
PROTOCOL = 6
_SCALARS = {"string": "string", "number": "number", "boolean": "bool"}

messages, services = grpc.protos_and_services("tests/terraform/provider.proto")


@contextmanager
def serving(folder: Path) -> Iterator[dict[str, str]]:
    """Serve the schema on a socket in `folder`; give the environment that Terraform finds it by."""
    schema = read_schema()
    server = grpc.server(ThreadPoolExecutor(4))
    services.add_ProviderServicer_to_server(_Provider(schema), server)
    socket = folder / "provider.sock"
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    where = {
        "Protocol": "grpc",
        "ProtocolVersion": PROTOCOL,
        "Pid": os.getpid(),
        "Test": True,  # Terraform neither starts nor ends it
        "Addr": {"Network": "unix", "String": str(socket)},
    }
    try:
        yield {"TF_REATTACH_PROVIDERS": json.dumps({PROVIDER: where})}
    finally:
        server.stop(grace=None).wait()


def read_schema() -> dict[str, Any]:
    """Return the extract: `resource` and `data`, each type to its attributes and blocks."""
    return dict(json.loads(gzip.decompress(SCHEMA.read_bytes())))


class _Provider(services.ProviderServicer):  # type: ignore[misc, name-defined]
    def __init__(self, schema: dict[str, Any]) -> None:
        self._schemas = messages.Schemas(
            provider=_schema(schema["provider"]),
            resource_schemas={name: _schema(one) for name, one in schema["resource"].items()},
            data_source_schemas={name: _schema(one) for name, one in schema["data"].items()},
        )

    def GetProviderSchema(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return self._schemas

    def _nothing_to_say(self, _request: Any, _context: Any) -> Any:
        return messages.Response()

    ValidateProviderConfig = ValidateResourceConfig = _nothing_to_say
    ValidateDataResourceConfig = ConfigureProvider = StopProvider = _nothing_to_say


def _schema(block: dict[str, Any]) -> Any:
    return messages.Schema(block=_block(block))


def _block(block: dict[str, Any]) -> Any:
    modes = messages.Schema.NestedBlock
    made = messages.Schema.Block()
    for name, one in sorted(block["attrs"].items()):
        made.attributes.add(
            name=name,
            type=json.dumps(_type(one)).encode(),
            required=one["req"],
            optional=not one["req"],
            computed=bool(one.get("comp")) and not one["req"],
            write_only=name.endswith("_wo"),
        )
    for name, kind in sorted(block.get("readonly", {}).items()):
        made.attributes.add(name=name, type=kind.encode(), computed=True)
    for name, one in sorted(block["blocks"].items()):
        single = one["nest"] == "struct"
        made.block_types.add(
            type_name=name,
            block=_block(one),
            nesting=modes.SINGLE if single else modes.LIST,
            min_items=0 if single else int(one["req"]),
            max_items=0 if single else int(one["max1"]),
        )
    return made


def _type(attribute: dict[str, Any]) -> Any:
    """Return an attribute's type as Terraform writes types in JSON."""
    collection = attribute.get("coll", "list")
    if "obj" in attribute:
        fields = {name: _type(one) for name, one in attribute["obj"]["attrs"].items()}
        return [collection if collection in ("list", "set") else "list", ["object", fields]]
    kind = attribute["type"]
    if kind in _SCALARS:
        return _SCALARS[kind]
    for suffix, default in (("List", "list"), ("Map", "map")):
        if kind.endswith(suffix):
            of = _SCALARS.get(kind.removesuffix(suffix), "string")
            return [collection if collection in ("list", "set", "map") else default, of]
    return "dynamic"
