"""Fetching a version's files: exactly what was deployed, or an error that names the file."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import orjson
import pytest

from serving.artifacts import ManifestFile, digest_of, fetch_artifact
from serving.errors import ArtifactMismatch, ArtifactUnavailable
from serving.settings import Artifact, Settings

FILES = {
    "saved_model/saved_model.pb": b"a graph",
    "saved_model/variables/variables.index": b"",
    "customers.txt": b"C1\nC2\n",
}


class Folder:
    """Objects in memory: (path, generation) -> content."""

    def __init__(self, objects: dict[tuple[str, int], bytes], manifest: dict[str, Any]) -> None:
        self.objects = objects
        self.manifest = manifest

    def read(self, path: str) -> bytes:
        assert path == "manifest.json"
        return orjson.dumps(self.manifest)

    def fetch(self, path: str, generation: int, target: Path) -> None:
        if (path, generation) not in self.objects:
            raise ArtifactUnavailable(f"{path} does not exist in generation {generation}")
        target.write_bytes(self.objects[path, generation])


def crc32c(content: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


def manifest_of(files: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "model_id": "movies",
        "version": 3,
        "training_run": 47,
        "source": "gs://training/movies/run-47",
        "files": files,
        "digest": digest_of(ManifestFile(**file) for file in files),
    }


@pytest.fixture
def source() -> Folder:
    files = [
        {"path": path, "size": len(content), "crc32c": crc32c(content), "generation": 100 + number}
        for number, (path, content) in enumerate(FILES.items())
    ]
    objects = {(file["path"], file["generation"]): FILES[file["path"]] for file in files}
    return Folder(objects, manifest_of(files))


def settings(digest: str) -> Settings:
    return Settings(
        model_id="movies",
        model_version="v3",
        training_run=47,
        artifact=Artifact("bucket", "models/movies/v3/", digest),
        host="127.0.0.1",
        port=8080,
        project=None,
    )


def fetch(source: Folder, folder: Path, digest: str | None = None) -> None:
    fetch_artifact(settings(digest or source.manifest["digest"]), source, folder)


def test_whole_artifact_is_written_as_it_was(source: Folder, tmp_path: Path) -> None:
    fetch(source, tmp_path)
    written = {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert written == FILES


def test_digest_is_over_sorted_lines_of_path_size_crc32c_and_generation() -> None:
    import hashlib

    files = [
        ManifestFile(path="b", size=2, crc32c="AAAAAA==", generation=1),
        ManifestFile(path="a", size=1, crc32c="BBBBBB==", generation=2),
    ]
    lines = b"a\t1\tBBBBBB==\t2\nb\t2\tAAAAAA==\t1\n"
    assert digest_of(files) == "sha256:" + hashlib.sha256(lines).hexdigest()


def test_revision_of_another_digest_is_refused(source: Folder, tmp_path: Path) -> None:
    with pytest.raises(ArtifactMismatch, match=r"manifest\.json: digest is .*expected sha256:f"):
        fetch(source, tmp_path, "sha256:" + "f" * 64)
    assert not any(tmp_path.iterdir())


def test_manifest_whose_files_were_edited_is_refused(source: Folder, tmp_path: Path) -> None:
    source.manifest["files"][0]["size"] += 1
    with pytest.raises(ArtifactMismatch, match="digest of its files"):
        fetch(source, tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("model_id", "books"), ("training_run", 46), ("schema_version", 2)],
)
def test_manifest_of_something_else_is_refused_naming_the_field(
    source: Folder, tmp_path: Path, field: str, value: object
) -> None:
    source.manifest[field] = value
    with pytest.raises(ArtifactMismatch, match=rf"manifest\.json: {field}"):
        fetch(source, tmp_path)


def test_version_that_brings_another_back_loads_the_files_of_that_one(
    source: Folder, tmp_path: Path
) -> None:
    source.manifest["version"] = 2
    fetch(source, tmp_path)
    assert any(tmp_path.iterdir())


def test_manifest_that_is_not_json_is_refused(source: Folder, tmp_path: Path) -> None:
    source.read = lambda _: b"<html>"  # type: ignore[method-assign]
    with pytest.raises(ArtifactMismatch, match=r"manifest\.json: the document"):
        fetch(source, tmp_path)


def corrupt(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        pytest.param(corrupt, "crc32c", id="one bit"),
        pytest.param(lambda content: content[:-1], "size", id="cut off"),
    ],
)
def test_object_that_changed_is_refused_naming_the_file(
    source: Folder, tmp_path: Path, change: Callable[[bytes], bytes], what: str
) -> None:
    name = ("saved_model/saved_model.pb", 100)
    source.objects[name] = change(source.objects[name])
    with pytest.raises(ArtifactMismatch, match=rf"saved_model/saved_model\.pb: {what} is"):
        fetch(source, tmp_path)


def test_object_overwritten_since_the_copy_is_not_what_is_loaded(
    source: Folder, tmp_path: Path
) -> None:
    content = source.objects.pop(("customers.txt", 102))
    source.objects["customers.txt", 999] = content
    with pytest.raises(ArtifactUnavailable, match=r"customers\.txt.*102"):
        fetch(source, tmp_path)


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/passwd", "a/../../b", "a//b", "./a", "a\\b", "manifest.json", ""]
)
def test_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    file = {"path": path, "size": 1, "crc32c": crc32c(b"x"), "generation": 1}
    source = Folder({(path, 1): b"x"}, manifest_of([file]))
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(ArtifactMismatch, match="not a path"):
        fetch(source, inside)
    assert list(tmp_path.rglob("*")) == [inside]


def test_path_listed_twice_is_refused(tmp_path: Path) -> None:
    file = {"path": "a", "size": 1, "crc32c": crc32c(b"x"), "generation": 1}
    source = Folder({("a", 1): b"x"}, manifest_of([file, file]))
    with pytest.raises(ArtifactMismatch, match="not a path of its own"):
        fetch(source, tmp_path)
