"""What parts call, what that needs, what Terraform grants, and what the page says: one thing."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from localcloud.calls import NO_FUNCTION, Call, Calls
from tests.permissions import beside, record, report
from tests.permissions.granted import granted
from tests.permissions.needs import DATABASE, Need, UnknownCall, needs
from tests.terraform.checking import ROOT

KNOWN = ("shift_traffic", "google.cloud.run.v2.Services/UpdateService", "annotations,traffic")
NEW = ("shift_traffic", "google.cloud.run.v2.Revisions/DeleteRevision", "")
UNKNOWN = ("shift_traffic", "google.cloud.run.v2.Services/DeleteService", "")
READ = Need("datastore.entities.get", DATABASE)
LIST = Need("datastore.entities.list", DATABASE)


def missing_and_spare() -> tuple[dict[str, set[Need]], dict[str, set[Need]]]:
    return report.differences(report.needed(record.recorded()), granted())


def test_every_part_is_granted_what_its_calls_need() -> None:
    missing, _ = missing_and_spare()
    assert missing == {}


def test_no_part_is_granted_more_than_its_calls_need_without_a_reason() -> None:
    _, spare = missing_and_spare()
    unexplained = [
        f"{part}: {need.permission} on {need.on}"
        for part, found in sorted(spare.items())
        for need in sorted(found)
        if beside.reason(part, need) is None
    ]
    assert unexplained == []


def test_every_reason_is_of_something_that_is_granted_and_not_called_for() -> None:
    _, spare = missing_and_spare()
    assert beside.stale(spare) == []


def test_every_reason_names_a_test_that_there_is() -> None:
    for reason in beside.reasons():
        file, _, name = reason.test.partition("::")
        assert not file or f"\ndef {name}(" in (ROOT / file).read_text(), reason.test
        assert file or "https://" in reason.why, "neither a test nor a source"


def test_every_part_of_the_record_is_one_of_terraforms() -> None:
    assert {call.caller for call in record.recorded()} <= set(granted())


def test_the_page_is_current() -> None:
    assert report.FILE.read_text() == report.document(), "python -m tests.permissions document"


def test_what_is_lacking_and_what_is_too_much_are_told_apart() -> None:
    wants = {"reader": {READ: [], LIST: []}, "newcomer": {READ: []}}
    has = {"reader": {READ, Need("datastore.entities.delete", DATABASE)}, "idle": {LIST}}
    missing, spare = report.differences(wants, has)
    assert missing == {"reader": {LIST}, "newcomer": {READ}}
    assert spare == {"reader": {Need("datastore.entities.delete", DATABASE)}, "idle": {LIST}}


@pytest.mark.parametrize(
    ("call", "permissions"),
    [
        (("Commit", "set"), {"datastore.entities.create", "datastore.entities.update"}),
        (("Commit", "create"), {"datastore.entities.create"}),
        (("RunQuery", ""), {"datastore.entities.get", "datastore.entities.list"}),
    ],
)
def test_documents_need_what_google_documents(call: tuple[str, str], permissions: set[str]) -> None:
    found = needs(Call("part", f"google.firestore.v1.Firestore/{call[0]}", call[1]))
    assert {need.permission for need in found} == permissions


def test_an_object_that_may_be_overwritten_may_be_deleted() -> None:
    place = "turnout-local-serving/models"
    create_only = needs(Call("part", "storage.objects.insert", f"{place} (new)"))
    overwriting = needs(Call("part", "storage.objects.insert", place))
    assert [need.permission for need in create_only] == ["storage.objects.create"]
    assert "storage.objects.delete" in {need.permission for need in overwriting}


@pytest.mark.parametrize(
    "call",
    [
        UNKNOWN[1:],
        ("google.cloud.run.v2.Services/UpdateService", ""),
        ("storage.buckets.get", "turnout-local-serving"),
        ("storage.objects.get", "turnout-local-serving/elsewhere"),
        ("storage.objects.get", "another-bucket/models"),
    ],
)
def test_call_that_nobody_described_is_named(call: tuple[str, str]) -> None:
    with pytest.raises(UnknownCall, match=call[0]):
        needs(Call("part", *call))


def count(folder: Path, *calls: tuple[str, str, str]) -> Path:
    """Have a local cloud's data folder hold these calls."""
    with closing(Calls(folder)) as counted:
        for call in calls:
            counted.note(*call)
    return folder


def test_run_that_makes_a_new_call_is_told_so(tmp_path: Path) -> None:
    count(tmp_path, KNOWN, ("person", *NEW[1:]), ("developer", *NEW[1:]))
    record.check(tmp_path)
    # It needs nothing that the part's other calls do not.
    count(tmp_path, ("shift_traffic", "google.firestore.v1.Firestore/Rollback", ""))
    # A way that is seldom taken, and has its reason.
    count(tmp_path, ("reconcile", *NEW[1:]))
    record.check(tmp_path)
    count(tmp_path, NEW)
    with pytest.raises(AssertionError, match=r"DeleteRevision.*tests\.permissions record"):
        record.check(tmp_path)


def test_run_that_makes_an_unknown_call_is_told_so(tmp_path: Path) -> None:
    count(tmp_path, UNKNOWN)
    with pytest.raises(UnknownCall, match="DeleteService"):
        record.check(tmp_path)


def test_what_a_function_is_told_by_others_counts_too(tmp_path: Path) -> None:
    count(tmp_path)
    count(tmp_path / "functions", ("training-trigger", "run.routes.invoke", "reconcile"))
    with pytest.raises(AssertionError, match=r"training_trigger.*reconcile"):
        record.check(tmp_path)


def test_call_that_no_function_made_is_never_recorded(tmp_path: Path) -> None:
    count(tmp_path, (NO_FUNCTION, *KNOWN[1:]))
    with pytest.raises(record.NotAttributed, match="UpdateService"):
        record.made_below(tmp_path.parent)


def test_folder_of_training_may_have_any_name_and_one_of_serving_may_not(tmp_path: Path) -> None:
    count(
        tmp_path,
        ("copy-artifacts", "storage.objects.list", "turnout-local-training/retail"),
        ("copy-artifacts", "storage.objects.list", "turnout-local-serving/retail"),
    )
    assert {call.detail for call in record.made(tmp_path)} == {
        "turnout-local-training/",
        "turnout-local-serving/retail",
    }
