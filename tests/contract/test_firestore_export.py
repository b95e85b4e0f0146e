"""Firestore's managed export and import, as Google's admin client calls them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import firestore, storage
from google.cloud.firestore_admin_v1 import FirestoreAdminClient

from localcloud.storage import Storage
from tests.contract.firestore_backends import connected, local_firestore
from tests.contract.listener import listening

PROJECT = "test-export"
DATABASE = f"projects/{PROJECT}/databases/(default)"
URI = "gs://backups/nightly/monday"


class Exporting:
    """Documents, their admin client, and the bucket `backups`."""

    def __init__(self, db: firestore.Client, admin: FirestoreAdminClient) -> None:
        self.db, self.admin = db, admin
        self.storage = storage.Client(project=PROJECT)
        self.storage.create_bucket("backups")

    def export(self, **fields: Any) -> Any:
        request = {"name": DATABASE, "output_uri_prefix": URI, **fields}
        return self.admin.export_documents(request=request)

    def bring_back(self, **fields: Any) -> Any:
        request = {"name": DATABASE, "input_uri_prefix": URI, **fields}
        return self.admin.import_documents(request=request)

    def read(self) -> dict[str, Any]:
        return {
            one.reference.path: one.to_dict()
            for name in ("models", "events", "keys")
            for one in self.db.collection_group(name).stream()
        }


@pytest.fixture
def exporting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Exporting]:
    stored = Storage(tmp_path / "storage")
    stored.start()
    (tmp_path / "firestore").mkdir()
    with (
        listening(stored.app()) as origin,
        local_firestore(tmp_path / "firestore") as address,
        connected(address, PROJECT, monkeypatch) as db,
        grpc.insecure_channel(address) as channel,
    ):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{origin}")
        transport = FirestoreAdminClient.get_transport_class("grpc")
        yield Exporting(db, FirestoreAdminClient(transport=transport(channel=channel)))
    stored.stop()


@pytest.fixture
def documents(exporting: Exporting) -> dict[str, Any]:
    at = datetime(2026, 11, 28, 10, tzinfo=UTC)
    exporting.db.document("models/movies").set({"token": 7, "split": {"v1": 100}, "at": at})
    exporting.db.document("models/movies/events/1").set({"what": None, "list": [1, "a", b"b"]})
    exporting.db.document("keys/k").set({"good": True})
    return exporting.read()


def test_import_brings_back_every_document_at_any_depth_as_it_was(
    exporting: Exporting, documents: dict[str, Any]
) -> None:
    operation = exporting.export()
    assert operation.result(timeout=30).output_uri_prefix == URI
    assert operation.metadata.progress_documents.completed_work == 3
    for path in documents:
        exporting.db.document(path).delete()
    exporting.bring_back().result(timeout=30)
    assert exporting.read() == documents


def test_import_writes_over_documents_and_leaves_those_that_the_export_does_not_have(
    exporting: Exporting, documents: dict[str, Any]
) -> None:
    exporting.export()
    exporting.db.document("models/movies").set({"token": 9, "later": True})
    exporting.db.document("models/books").set({"token": 1})
    exporting.bring_back()
    assert exporting.read() == {**documents, "models/books": {"token": 1}}


def test_collection_groups_can_be_exported_and_imported_alone(
    exporting: Exporting, documents: dict[str, Any]
) -> None:
    exporting.export(collection_ids=["models", "events"])
    for path in documents:
        exporting.db.document(path).delete()
    exporting.bring_back(collection_ids=["events"])
    assert [*exporting.read()] == ["models/movies/events/1"]
    exporting.bring_back()
    assert [*exporting.read()] == ["models/movies", "models/movies/events/1"]


@pytest.mark.parametrize("exported", [[], ["models"]], ids=["of all", "of others"])
def test_collections_come_back_alone_only_from_an_export_that_names_them(
    exporting: Exporting, documents: dict[str, Any], exported: list[str]
) -> None:
    exporting.export(collection_ids=exported)
    with pytest.raises(exceptions.InvalidArgument, match="export of specific collections"):
        exporting.bring_back(collection_ids=["keys"])
    assert exporting.read() == documents


def test_export_to_a_bucket_alone_makes_a_folder_of_its_own(
    exporting: Exporting, documents: dict[str, Any]
) -> None:
    made = [exporting.export(output_uri_prefix="gs://backups").result() for _ in range(2)]
    first, second = (one.output_uri_prefix for one in made)
    assert first != second
    exporting.bring_back(input_uri_prefix=first)
    assert exporting.read() == documents


def test_export_of_a_moment_has_the_documents_of_that_moment(
    exporting: Exporting,
) -> None:
    minute = datetime.now(UTC).replace(second=0, microsecond=0)
    exporting.db.document("models/movies").set({"token": 7})
    exporting.export(snapshot_time=minute)
    exporting.db.document("models/movies").delete()
    exporting.bring_back()
    assert exporting.read() == {}  # It was not there at the last full minute.


@pytest.mark.parametrize(
    "moment",
    [timedelta(seconds=1), timedelta(hours=2), timedelta(hours=-1)],
    ids=["not a full minute", "too long ago", "to come"],
)
def test_moment_that_cannot_be_exported_is_refused(exporting: Exporting, moment: timedelta) -> None:
    minute = datetime.now(UTC).replace(second=0, microsecond=0)
    with pytest.raises(exceptions.InvalidArgument):
        exporting.export(snapshot_time=minute - moment)


def test_what_is_no_complete_export_or_no_bucket_is_refused(exporting: Exporting) -> None:
    for uri in ("backups/x", "gs://", "gs://backups", "gs://backups/never"):
        with pytest.raises(exceptions.InvalidArgument):
            exporting.bring_back(input_uri_prefix=uri)
    with pytest.raises(exceptions.NotFound):
        exporting.export(output_uri_prefix="gs://no-such-bucket/x")
    with pytest.raises(exceptions.InvalidArgument):
        exporting.export(name="projects/x")
