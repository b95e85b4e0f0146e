"""Writes the schema of the resource types that terraform/ uses, out of a PyPI package.

    pip download --no-deps cdktn-provider-google==21.1.0
    python -m tests.terraform.extract_schema cdktn_provider_google-21.1.0-py3-none-any.whl

The package (MPL-2.0, 67 MB) is generated from the schema of hashicorp/google 8.7.0; it is not
installed. Read are lib/TYPE/index.js (names, block or attribute, one or many) and index.d.ts
(required or optional). Add a type's name to terraform/ first: what is used is what is extracted.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.terraform.stub_provider import SCHEMA

TERRAFORM = Path(__file__).parents[2] / "terraform"
_USED = re.compile(r'^(resource|data) "(google_\w+)"', re.M)
_FUNCTION = re.compile(r"^function (\w+)ToHclTerraform\(struct\) \{(.*?)^\}", re.S | re.M)
_ATTRIBUTE = re.compile(
    r"^\s+(\w+): \{\s*\n\s+value: (.*),\n\s+isBlock: (true|false),\n\s+type: \"(\w+)\",\n"
    r"\s+storageClassType: \"(\w+)\"",
    re.M,
)
_INTERFACE = re.compile(r"^export interface (\w+)(?: extends [\w.]+)? \{(.*?)^\}", re.S | re.M)
_PROPERTY = re.compile(r"^    readonly (\w+)(\??): ", re.M)
_CLASS = re.compile(r"^class (\w+)OutputReference extends .*?^\}", re.S | re.M)
_GETTER = re.compile(r"this\.get(\w+)Attribute\('(\w+)'\)")
_TYPES = {
    "String": '"string"',
    "Number": '"number"',
    "Boolean": '"bool"',
    "List": '["list","string"]',
    "NumberList": '["list","number"]',
}


class Source:
    """One type's two files; `resource` is its schema."""

    def __init__(self, script: str, declarations: str) -> None:
        # Behind it are megabytes of base64, which the patterns would crawl through.
        self._script = script.split("//# sourceMappingURL")[0]
        self._bodies = dict(_FUNCTION.findall(self._script))
        self._classes = {found[1]: found[0] for found in _CLASS.finditer(self._script)}
        self._required = {
            name: {prop for prop, optional in _PROPERTY.findall(body) if not optional}
            for name, body in _INTERFACE.findall(declarations)
        }
        self._config = next(
            name
            for name in self._required
            if name.endswith("Config")
            and re.search(
                rf"constructor\(scope: Construct, id: string, config\??: {name}\)", declarations
            )
        )

    @property
    def name(self) -> str:
        """The type's name in Terraform."""
        return re.findall(r"terraformResourceType: '([^']+)'", self._script)[0]

    def resource(self) -> dict[str, Any]:
        """Return attributes, blocks and what only the provider knows."""
        begin = self._script.rindex("synthesizeHclAttributes()")
        made = self._block(self._script[begin:], self._config)
        main = self._script[self._script.index("terraformResourceType: '") :]
        known = {*made["attrs"], *made["blocks"]}
        read = {name: kind for name, kind in self._read_only(main).items() if name not in known}
        nested = re.findall(r"(?:OutputReference|List|Map)\(this, \"(\w+)\"", main)
        made["readonly"] = {
            **{name: '"dynamic"' for name in nested if name not in known},
            **read,
            **{
                name: '["map","string"]'
                for name in re.findall(r"StringMap\(this, \"(\w+)\"", main)
                if name not in known
            },
        }
        for name, computed in re.findall(r"^    // (\w+) - computed: (true|false)", main, re.M):
            if computed == "true" and name in made["attrs"]:
                made["attrs"][name]["comp"] = True
        return made

    def _block(self, text: str, interface: str, depth: int = 0) -> dict[str, Any]:
        attributes: dict[str, Any] = {}
        blocks: dict[str, Any] = {}
        for name, value, is_block, kind, storage in _ATTRIBUTE.findall(text):
            camel = re.search(r"(?:struct|this)\.(_?\w+)", value)
            required = (camel[1].lstrip("_") if camel else name) in self._required.get(
                interface, ()
            )
            function = re.search(r"\b(\w+)ToHclTerraform", value.replace("cdktn.", "cdktn_"))
            of = function[1] if function and not function[1].startswith("cdktn_") else ""
            inner = None
            if of in self._bodies and depth < 12:
                inner = self._block(self._bodies[of], of[0].upper() + of[1:], depth + 1)
            if is_block == "true":
                inner = inner or {"attrs": {}, "blocks": {}}
                found = self._read_only(self._classes.get(of[:1].upper() + of[1:], ""))
                known = {*inner["attrs"], *inner["blocks"]}
                read = {key: kind for key, kind in found.items() if key not in known}
                blocks[name] = {
                    "req": required,
                    "max1": "listMapper" not in value,
                    "nest": kind,
                    **inner,
                    **({"readonly": read} if read else {}),
                }
            else:
                attributes[name] = {
                    "req": required,
                    "type": "object" if inner else storage,
                    "coll": kind,
                    **({"obj": inner} if inner else {}),
                }
        return {"attrs": attributes, "blocks": blocks}

    @staticmethod
    def _read_only(text: str) -> dict[str, str]:
        return {name: _TYPES[kind] for kind, name in _GETTER.findall(text) if kind in _TYPES}


def used() -> set[tuple[str, str]]:
    """Return what terraform/ uses, as ("resource" or "data", type)."""
    return {
        (kind, name)
        for file in TERRAFORM.glob("*.tf")
        for kind, name in _USED.findall(file.read_text())
    }


def _sources(wheel: Path, folders: set[str]) -> Iterator[tuple[str, Source]]:
    """Give folder and source of each of `folders` in the package."""
    found: dict[str, dict[str, str]] = {}
    with zipfile.ZipFile(wheel) as package:
        inner = next(name for name in package.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(package.read(inner)), mode="r|gz") as archive:
            for member in archive:
                parts = member.name.split("/")
                if len(parts) != 4 or parts[1] != "lib" or parts[2] not in folders:
                    continue
                if parts[3] in ("index.js", "index.d.ts"):
                    content = archive.extractfile(member)
                    assert content is not None
                    files = found.setdefault(parts[2], {})
                    files[parts[3]] = content.read().decode()
                    if len(files) == 2:
                        yield parts[2], Source(files["index.js"], files["index.d.ts"])


def _folder(kind: str, name: str) -> str:
    """Return the package's folder of a type: data sources keep google_ in theirs."""
    if kind == "data":
        return "data-" + name.replace("_", "-")
    return name.removeprefix("google_").replace("_", "-")


def main(wheel: Path) -> None:
    """Write the extract; ValueError names the types that the package does not have."""
    wanted = used()
    folders = {_folder(kind, name): (kind, name) for kind, name in wanted}
    schema: dict[str, Any] = {"version": "8.7.0", "provider": {}, "resource": {}, "data": {}}
    for folder, source in _sources(wheel, {*folders, "provider"}):
        if folder == "provider":
            schema["provider"] = source.resource()
            continue
        kind, name = folders[folder]
        if source.name != name:
            raise ValueError(f"{folder} holds {source.name}, not {name}")
        schema[kind][name] = source.resource()
    if missing := {(k, n) for k, n in wanted if n not in schema[k]}:
        raise ValueError(f"the package has no {sorted(missing)}")
    content = json.dumps(schema, separators=(",", ":"), sort_keys=True).encode()
    SCHEMA.write_bytes(gzip.compress(content, 9, mtime=0))
    print(f"{len(wanted)} types, {SCHEMA.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
