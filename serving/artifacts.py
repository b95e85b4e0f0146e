"""Fetching one version's files and proving that they are the ones that were deployed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import ArtifactMismatch
from serving.settings import Settings

_Manifest = TypeVar("_Manifest", bound=BaseModel)

MANIFEST = "manifest.json"
_PARALLEL_DOWNLOADS = 8
_CHUNK_BYTES = 1 << 20


class ArtifactSource(Protocol):
    """Where a version's files are; names are relative to its folder."""

    def read(self, path: str) -> bytes:
        """Return a small file's content; raises ArtifactUnavailable."""

    def fetch(self, path: str, generation: int, target: Path) -> None:
        """Write exactly this generation of a file to `target`; raises ArtifactUnavailable."""


class ManifestFile(BaseModel):
    """One file as it was verified when it was copied; `crc32c` is base64, big-endian."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    path: str
    size: Annotated[int, Field(ge=0)]
    crc32c: str
    generation: int


class Manifest(BaseModel):
    """A version's list of files, written after the last of them.

    `version` is the one that they were copied for. Another that brings it back serves the same
    files, so what they are is told by the digest alone.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())

    schema_version: Literal[1]
    model_id: str
    version: int
    training_run: int
    source: str
    files: Annotated[list[ManifestFile], Field(min_length=1)]
    digest: str


def fetch_artifact(settings: Settings, source: ArtifactSource, folder: Path) -> Manifest:
    """Download the version's files into `folder` and return its manifest.

    Raises ArtifactUnavailable, or ArtifactMismatch naming the first file that differs.
    """
    manifest = _read_manifest(settings, source)
    fetch_files(MANIFEST, manifest.files, source, folder)
    return manifest


def fetch_files(
    listed_in: str, files: Sequence[ManifestFile], source: ArtifactSource, folder: Path
) -> None:
    """Download a manifest's files into `folder` and compare each with what the manifest says.

    Raises ArtifactUnavailable, or ArtifactMismatch naming the first file that differs.
    """
    seen: set[str] = set()
    for file in files:
        if not _is_inside(file.path) or file.path in seen:
            raise ArtifactMismatch(f"{listed_in}: {file.path!r} is not a path of its own inside")
        seen.add(file.path)
    with ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as pool:
        downloads = [pool.submit(_fetch, file, source, folder) for file in files]
        try:
            for download in downloads:
                download.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def read_manifest(kind: type[_Manifest], path: str, source: ArtifactSource) -> _Manifest:
    """Return a stored manifest; ArtifactUnavailable, or ArtifactMismatch naming the field."""
    try:
        return kind.model_validate_json(source.read(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ArtifactMismatch(f"{path}: {where}: {first['msg']}") from error


def digest_of(files: Iterable[ManifestFile]) -> str:
    """Return "sha256:" + hex of the lines `path TAB size TAB crc32c TAB generation` by path.

    A crc32c can be met on purpose; a generation is given by Cloud Storage and never again.
    """
    lines = sorted(
        (file.path, f"{file.path}\t{file.size}\t{file.crc32c}\t{file.generation}\n")
        for file in files
    )
    return "sha256:" + hashlib.sha256("".join(line for _, line in lines).encode()).hexdigest()


def _read_manifest(settings: Settings, source: ArtifactSource) -> Manifest:
    assert settings.artifact is not None
    manifest = read_manifest(Manifest, MANIFEST, source)
    expect(MANIFEST, "model_id", manifest.model_id, settings.model_id)
    expect(MANIFEST, "training_run", manifest.training_run, settings.training_run)
    expect(MANIFEST, "digest", manifest.digest, settings.artifact.digest)
    expect(MANIFEST, "digest of its files", digest_of(manifest.files), settings.artifact.digest)
    return manifest


def _fetch(file: ManifestFile, source: ArtifactSource, folder: Path) -> None:
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    source.fetch(file.path, file.generation, target)
    expect(file.path, "size", target.stat().st_size, file.size)
    expect(file.path, "crc32c", _crc32c(target), file.crc32c)


def expect(path: str, what: str, found: object, expected: object) -> None:
    """Raise ArtifactMismatch unless what was found is what was expected."""
    if found != expected:
        raise ArtifactMismatch(
            f"{path}: {what} is {found}, expected {expected}; the artifact changed after it was "
            "copied, so deploy the training run again"
        )


def _is_inside(path: str) -> bool:
    """Tell whether a path stays inside the folder that it is relative to."""
    pure = PurePosixPath(path)
    return (
        path == str(pure)
        and path.isprintable()
        and not pure.is_absolute()
        and not {".", ".."} & set(pure.parts)
        and "\\" not in path
        and path != MANIFEST
    )


def _crc32c(path: Path) -> str:
    import google_crc32c

    checksum: Any = google_crc32c.Checksum()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            checksum.update(chunk)
    return base64.b64encode(checksum.digest()).decode()
