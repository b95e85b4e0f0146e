"""The answers that were prepared for a version, as its revision says they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.artifacts import (
    ArtifactSource,
    ManifestFile,
    digest_of,
    expect,
    fetch_files,
    read_manifest,
)
from serving.errors import ArtifactMismatch
from serving.settings import Settings

FOLDER = "prepared"
MANIFEST = f"{FOLDER}/manifest.json"
TABLE_SUFFIX = ".table"
INDEX = f"{FOLDER}/index.faiss"


class PreparedManifest(BaseModel):
    """What was prepared; written when the last task of the job has ended."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())

    schema_version: Literal[1]
    model_digest: str
    top_k: Annotated[int, Field(ge=0)]
    customers: Annotated[int, Field(ge=0)]
    products: Annotated[int, Field(ge=1)]
    tasks: Annotated[int, Field(ge=1)]
    recall: float | None
    files: list[ManifestFile]
    digest: str


@dataclass(frozen=True)
class Prepared:
    """What was fetched: paths relative to the folder, and the model's number of products."""

    tables: tuple[str, ...]
    index: str | None
    products: int


def fetch_prepared(settings: Settings, source: ArtifactSource, folder: Path) -> Prepared:
    """Download what was prepared into `folder`; raises ArtifactUnavailable, ArtifactMismatch."""
    assert settings.artifact is not None
    manifest = read_manifest(PreparedManifest, MANIFEST, source)
    expect(MANIFEST, "model_digest", manifest.model_digest, settings.artifact.digest)
    expect(MANIFEST, "digest", manifest.digest, settings.prepared_digest)
    expect(MANIFEST, "digest of its files", digest_of(manifest.files), settings.prepared_digest)
    fetch_files(MANIFEST, manifest.files, source, folder)
    paths = [file.path for file in manifest.files]
    if settings.retrieval == "approximate" and INDEX not in paths:
        raise ArtifactMismatch(f"{MANIFEST}: there is no {INDEX}, which RETRIEVAL asks for")
    return Prepared(
        tables=tuple(path for path in paths if path.endswith(TABLE_SUFFIX)),
        index=INDEX if settings.retrieval == "approximate" else None,
        products=manifest.products,
    )
