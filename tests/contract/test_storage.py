"""Cloud Storage, spoken to by Google's unmodified client over a real listener."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
import requests
from google.api_core import exceptions
from google.cloud import storage
from google.cloud.storage import transfer_manager

from localcloud.ports import Ports
from localcloud.storage import Storage
from tests.contract.listener import listening

MIB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def origin(folder: Path) -> Iterator[str]:
    service = Storage(folder)
    service.start()
    with listening(service.app()) as address:
        yield f"http://{address}"
    service.stop()


@pytest.fixture
def client(origin: str, monkeypatch: pytest.MonkeyPatch) -> storage.Client:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", origin)
    return storage.Client(project="turnout-local")


@pytest.fixture
def bucket(client: storage.Client) -> storage.Bucket:
    return client.create_bucket("first-bucket")


def crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


# Buckets


def test_bucket_created_twice_is_a_conflict(client: storage.Client) -> None:
    client.create_bucket("one-bucket")
    with pytest.raises(exceptions.Conflict):
        client.create_bucket("one-bucket")
    assert [found.name for found in client.list_buckets(prefix="one")] == ["one-bucket"]


def test_buckets_listed_in_pages_are_all_there(client: storage.Client) -> None:
    names = [f"bucket-{number}" for number in range(5)]
    for name in names:
        client.create_bucket(name)
    assert [found.name for found in client.list_buckets(page_size=2)] == names


def test_bucket_with_objects_is_not_deleted(bucket: storage.Bucket) -> None:
    blob = bucket.blob("kept")
    blob.upload_from_string("x")
    with pytest.raises(exceptions.Conflict):
        bucket.delete()
    blob.delete()
    bucket.delete()
    assert not bucket.exists()


def test_bucket_labels_patched_and_metageneration_grows(bucket: storage.Bucket) -> None:
    bucket.labels = {"team": "recommendations"}
    bucket.patch(if_metageneration_match=1)
    bucket.reload()
    assert (bucket.labels, bucket.metageneration) == ({"team": "recommendations"}, 2)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.patch(if_metageneration_match=1)


def test_bucket_field_without_support_is_refused_by_name(client: storage.Client) -> None:
    bucket = client.bucket("with-rules")
    bucket.add_lifecycle_delete_rule(age=1)
    with pytest.raises(exceptions.GoogleAPICallError, match="lifecycle"):
        bucket.create(retry=None)


# Uploads and downloads


@pytest.mark.parametrize("size", [0, 1, 5 * MIB + 3], ids=["empty", "one byte", "some megabytes"])
@pytest.mark.parametrize("chunk_size", [None, 256 * 1024], ids=["multipart", "resumable"])
def test_upload_is_downloaded_unchanged_with_true_checksums(
    bucket: storage.Bucket, size: int, chunk_size: int | None
) -> None:
    data = os.urandom(size)
    blob = bucket.blob("models/größe 1/a+b%2F?.bin", chunk_size=chunk_size)
    blob.upload_from_file(io.BytesIO(data), content_type="application/x-model")
    found = bucket.get_blob(blob.name)
    assert found is not None
    assert (found.size, found.crc32c, found.md5_hash) == (size, crc32c(data), md5(data))
    assert found.content_type == "application/x-model"
    assert found.time_created is not None
    assert found.download_as_bytes() == data


@pytest.mark.parametrize(
    "name",
    ["../../escape", "a/../b", "a//b", "ünï/ços 日本", "100%", "with space", "q?a=b&c#d", "\\x"],
)
def test_any_object_name_is_only_a_name(
    bucket: storage.Bucket, tmp_path: Path, folder: Path, name: str
) -> None:
    before = {path for path in tmp_path.rglob("*") if folder not in path.parents}
    bucket.blob(name).upload_from_string(b"content")
    assert bucket.blob(name).download_as_bytes() == b"content"
    assert [blob.name for blob in bucket.list_blobs()] == [name]
    assert {path for path in tmp_path.rglob("*") if folder not in path.parents} == before
    bucket.blob(name).delete()
    assert not bucket.blob(name).exists()


@pytest.mark.parametrize("name", ["..", ".", "a\nb", "x" * 1025])
def test_name_that_google_refuses_is_refused(bucket: storage.Bucket, name: str) -> None:
    with pytest.raises(exceptions.BadRequest):
        bucket.blob(name).upload_from_string(b"")


def test_media_upload_stores_the_body(origin: str, bucket: storage.Bucket) -> None:
    answer = requests.post(
        f"{origin}/upload/storage/v1/b/{bucket.name}/o",
        params={"uploadType": "media", "name": "plain.txt"},
        data=b"plain",
        headers={"Content-Type": "text/plain"},
        timeout=30,
    )
    assert answer.json()["contentType"] == "text/plain"
    assert bucket.blob("plain.txt").download_as_bytes() == b"plain"


def test_content_that_looks_like_a_boundary_is_kept(bucket: storage.Bucket) -> None:
    data = b"\r\n--===============\r\n" * 40_000 + b"--\r\n"
    bucket.blob("tricky").upload_from_string(data)
    assert bucket.blob("tricky").download_as_bytes() == data


@pytest.mark.parametrize("checksum", [{"crc32c": "AAAAAA=="}, {"md5Hash": md5(b"other")}])
def test_upload_with_wrong_checksum_is_refused(
    origin: str, bucket: storage.Bucket, checksum: dict[str, str]
) -> None:
    blob = bucket.blob("wrong")
    blob._properties.update(checksum)
    blob._changes.add(next(iter(checksum)))
    resource = json.dumps({"name": "wrong", **checksum})
    body = (
        "--b\r\ncontent-type: application/json\r\n\r\n" + resource + "\r\n"
        "--b\r\ncontent-type: text/plain\r\n\r\ncontent\r\n--b--"
    )
    answer = requests.post(
        f"{origin}/upload/storage/v1/b/{bucket.name}/o?uploadType=multipart",
        data=body,
        headers={"Content-Type": 'multipart/related; boundary="b"'},
        timeout=30,
    )
    assert (answer.status_code, answer.json()["error"]["errors"][0]["reason"]) == (400, "invalid")
    assert not blob.exists()


def test_resumable_upload_with_wrong_final_checksum_is_refused(
    origin: str, bucket: storage.Bucket
) -> None:
    location = begin_upload(origin, bucket.name, "wrong")
    answer = requests.put(
        location, data=b"content", headers={"X-Goog-Hash": "crc32c=AAAAAA=="}, timeout=30
    )
    assert answer.status_code == 400
    assert not bucket.blob("wrong").exists()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b\r\n\r\n{}\r\n--b--",
        b"--b\r\n\r\nno json\r\n--b\r\n\r\nx\r\n--b--",
        b"--b\r\n\r\n{}\r\n--b\r\n\r\ncut short",
    ],
    ids=["empty", "one part", "no json", "cut short"],
)
def test_malformed_multipart_body_is_refused(
    origin: str, bucket: storage.Bucket, body: bytes
) -> None:
    answer = requests.post(
        f"{origin}/upload/storage/v1/b/{bucket.name}/o?uploadType=multipart&name=bad",
        data=body,
        headers={"Content-Type": "multipart/related; boundary=b"},
        timeout=30,
    )
    assert answer.status_code == 400
    assert not bucket.blob("bad").exists()


def begin_upload(origin: str, bucket: str, name: str, **query: Any) -> str:
    answer = requests.post(
        f"{origin}/upload/storage/v1/b/{bucket}/o",
        params={"uploadType": "resumable", "name": name, **query},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    return answer.headers["Location"]


def send_chunk(location: str, data: bytes, content_range: str) -> requests.Response:
    headers = {"Content-Range": f"bytes {content_range}"}
    return requests.put(location, data=data, headers=headers, timeout=30)


def test_interrupted_upload_goes_on_where_it_stopped(origin: str, bucket: storage.Bucket) -> None:
    data = os.urandom(MIB + 5)
    location = begin_upload(origin, bucket.name, "resumed")
    assert send_chunk(location, b"", "*/*").headers.get("Range") is None
    first = send_chunk(location, data[: 512 * 1024], f"0-{512 * 1024 - 1}/*")
    assert (first.status_code, first.headers["Range"]) == (308, f"bytes=0-{512 * 1024 - 1}")
    # Not a multiple of 256 KiB: the rest is not kept.
    odd = send_chunk(location, data[512 * 1024 : 800_000], f"{512 * 1024}-799999/*")
    assert odd.headers["Range"] == f"bytes=0-{768 * 1024 - 1}"
    status = send_chunk(location, b"", f"*/{len(data)}")
    assert (status.status_code, status.headers["Range"]) == (308, f"bytes=0-{768 * 1024 - 1}")
    gap = send_chunk(location, data[900_000:], f"900000-{len(data) - 1}/{len(data)}")
    assert gap.status_code == 400
    # Overlaps what is there already.
    last = send_chunk(location, data[600_000:], f"600000-{len(data) - 1}/{len(data)}")
    assert (last.status_code, last.json()["crc32c"]) == (200, crc32c(data))
    again = send_chunk(location, b"", f"*/{len(data)}")
    assert again.json() == last.json()
    assert bucket.blob("resumed").download_as_bytes() == data


def test_cancelled_upload_is_gone(origin: str, bucket: storage.Bucket, folder: Path) -> None:
    location = begin_upload(origin, bucket.name, "cancelled")
    assert requests.delete(location, timeout=30).status_code == 499
    assert send_chunk(location, b"", "*/*").status_code == 404
    assert list((folder / "incoming").iterdir()) == []


def test_upload_that_lost_the_race_while_it_ran_is_refused(
    origin: str, bucket: storage.Bucket
) -> None:
    location = begin_upload(origin, bucket.name, "raced", ifGenerationMatch=0)
    bucket.blob("raced").upload_from_string("first")
    assert requests.put(location, data=b"second", timeout=30).status_code == 412
    assert bucket.blob("raced").download_as_bytes() == b"first"


def test_ranges_are_answered_with_the_bytes_asked_for(bucket: storage.Bucket) -> None:
    blob = bucket.blob("ranged")
    blob.upload_from_string(b"0123456789")
    assert blob.download_as_bytes(start=2, end=4) == b"234"
    assert blob.download_as_bytes(start=7) == b"789"
    assert blob.download_as_bytes(start=-3) == b"789"
    assert blob.download_as_bytes(end=99) == b"0123456789"
    with pytest.raises(exceptions.RequestRangeNotSatisfiable):
        blob.download_as_bytes(start=10)


def test_partial_content_names_range_and_checksums(origin: str, bucket: storage.Bucket) -> None:
    bucket.blob("ranged").upload_from_string(b"0123456789")
    answer = requests.get(
        f"{origin}/download/storage/v1/b/{bucket.name}/o/ranged?alt=media",
        headers={"Range": "bytes=2-4"},
        timeout=30,
    )
    assert (answer.status_code, answer.headers["Content-Range"]) == (206, "bytes 2-4/10")
    assert answer.headers["X-Goog-Hash"].split(",")[0] == f"crc32c={crc32c(b'0123456789')}"


def test_missing_objects_and_buckets_are_not_found(client: storage.Client) -> None:
    bucket = client.create_bucket("empty-bucket")
    with pytest.raises(exceptions.NotFound, match="No such object: empty-bucket/none"):
        bucket.blob("none").download_as_bytes()
    with pytest.raises(exceptions.NotFound):
        bucket.blob("none").reload()
    with pytest.raises(exceptions.NotFound, match="The specified bucket does not exist"):
        client.bucket("no-bucket").blob("x").upload_from_string("x")


def test_large_upload_and_download_do_not_fill_the_memory(
    bucket: storage.Bucket, tmp_path: Path
) -> None:
    size = 96 * MIB
    source, target = tmp_path / "large", tmp_path / "copy"
    with source.open("wb") as writer:
        writer.truncate(size)
    tracemalloc.start()
    bucket.blob("large", chunk_size=8 * MIB).upload_from_filename(str(source))
    bucket.blob("large", chunk_size=8 * MIB).download_to_filename(str(target))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert target.stat().st_size == size
    # Client and service together; one chunk of the client is 8 MiB.
    assert peak < 64 * MIB


def test_many_files_are_moved_by_the_transfer_manager(
    bucket: storage.Bucket, tmp_path: Path
) -> None:
    (tmp_path / "up" / "deep").mkdir(parents=True)
    (tmp_path / "down").mkdir()
    names = ["a.txt", "deep/b.txt", "deep/ü c.txt"]
    for name in names:
        (tmp_path / "up" / name).write_text(f"content of {name}")
    results = transfer_manager.upload_many_from_filenames(
        bucket,
        names,
        source_directory=str(tmp_path / "up"),
        blob_name_prefix="tree/",
        worker_type=transfer_manager.THREAD,
        raise_exception=True,
    )
    assert results == [None] * 3
    transfer_manager.download_many_to_path(
        bucket,
        names,
        blob_name_prefix="tree/",
        destination_directory=str(tmp_path / "down"),
        worker_type=transfer_manager.THREAD,
        raise_exception=True,
    )
    for name in names:
        assert (tmp_path / "down" / name).read_text() == f"content of {name}"


def test_one_file_is_downloaded_in_concurrent_chunks(
    bucket: storage.Bucket, tmp_path: Path
) -> None:
    data = os.urandom(2 * MIB + 17)
    blob = bucket.blob("chunked")
    blob.upload_from_string(data)
    transfer_manager.download_chunks_concurrently(
        blob, str(tmp_path / "out"), chunk_size=512 * 1024, worker_type=transfer_manager.THREAD
    )
    assert (tmp_path / "out").read_bytes() == data


# Generations, metadata and preconditions


def test_generation_grows_with_every_write_and_the_old_one_is_gone(
    bucket: storage.Bucket, folder: Path
) -> None:
    generations = []
    for number in range(5):
        blob = bucket.blob("counted")
        blob.upload_from_string(str(number))
        generations.append(blob.generation)
    assert generations == sorted(set(generations))
    with pytest.raises(exceptions.NotFound):
        bucket.blob("counted", generation=generations[0]).download_as_bytes()
    assert len(list((folder / "data").iterdir())) == 1


def test_versioned_bucket_keeps_the_generations_before(bucket: storage.Bucket) -> None:
    bucket.versioning_enabled = True
    bucket.patch()
    blob = bucket.blob("versioned")
    blob.upload_from_string("one")
    first = blob.generation
    blob = bucket.blob("versioned")
    blob.upload_from_string("two")
    bucket.blob("versioned").delete()
    assert [found.name for found in bucket.list_blobs()] == []
    kept = list(bucket.list_blobs(versions=True))
    assert [found.generation for found in kept] == [first, blob.generation]
    assert all(found.time_deleted for found in kept)
    assert bucket.blob("versioned", generation=first).download_as_bytes() == b"one"
    bucket.blob("versioned", generation=first).delete()
    assert [f.generation for f in bucket.list_blobs(versions=True)] == [blob.generation]


def test_metadata_patched_and_updated(bucket: storage.Bucket) -> None:
    blob = bucket.blob("described")
    blob.metadata = {"run": "47", "kind": "model"}
    blob.upload_from_string("x", content_type="text/plain")
    blob.metadata = {"run": "48", "kind": None}
    blob.cache_control = "no-store"
    blob.patch(if_metageneration_match=1)
    blob.reload()
    assert (blob.metadata, blob.cache_control) == ({"run": "48"}, "no-store")
    assert (blob.metageneration, blob.content_type) == (2, "text/plain")
    blob.content_type = "text/csv"
    blob.update()
    blob.reload()
    assert (blob.content_type, blob.metadata, blob.metageneration) == ("text/csv", {"run": "48"}, 3)


Verb = Callable[[storage.Blob, dict[str, int]], object]


def _rewrite(blob: storage.Blob, condition: dict[str, int]) -> object:
    source = blob.bucket.blob("source")
    source.upload_from_string("s")
    return blob.rewrite(source, **condition)


def _copy(blob: storage.Blob, condition: dict[str, int]) -> object:
    source = blob.bucket.blob("source")
    source.upload_from_string("s")
    return blob.bucket.copy_blob(source, blob.bucket, blob.name, **condition)


def _compose(blob: storage.Blob, condition: dict[str, int]) -> object:
    source = blob.bucket.blob("source")
    source.upload_from_string("s")
    return blob.compose([source], **condition)


def _resumable(blob: storage.Blob, condition: dict[str, int]) -> object:
    chunked = blob.bucket.blob(blob.name, chunk_size=256 * 1024)
    return chunked.upload_from_file(io.BytesIO(b"r" * 300_000), **condition)


WRITES: dict[str, Verb] = {
    "multipart upload": lambda blob, condition: blob.upload_from_string("m", **condition),
    "resumable upload": _resumable,
    "patch": lambda blob, condition: blob.patch(**condition),
    "update": lambda blob, condition: blob.update(**condition),
    "rewrite": _rewrite,
    "copy": _copy,
    "compose": _compose,
    "delete": lambda blob, condition: blob.delete(**condition),
}
READS: dict[str, Verb] = {
    "get": lambda blob, condition: blob.reload(**condition),
    "download": lambda blob, condition: blob.download_as_bytes(**condition),
}


@pytest.mark.parametrize("verb", [*WRITES, *READS])
def test_verb_with_conditions_that_hold_succeeds(bucket: storage.Bucket, verb: str) -> None:
    bucket.blob("object").upload_from_string("present")
    present = bucket.get_blob("object")
    (WRITES | READS)[verb](
        bucket.blob("object"),
        {
            "if_generation_match": present.generation,
            "if_metageneration_match": present.metageneration,
        },
    )


@pytest.mark.parametrize("condition", ["if_generation_match", "if_metageneration_match"])
@pytest.mark.parametrize("verb", [*WRITES, *READS])
def test_verb_with_a_match_that_fails_changes_nothing(
    bucket: storage.Bucket, verb: str, condition: str
) -> None:
    bucket.blob("object").upload_from_string("present")
    before = bucket.get_blob("object")
    with pytest.raises(exceptions.PreconditionFailed):
        (WRITES | READS)[verb](bucket.blob("object"), {condition: 12345})
    after = bucket.get_blob("object")
    assert (after.generation, after.metageneration) == (before.generation, before.metageneration)
    assert after.download_as_bytes() == b"present"


@pytest.mark.parametrize("condition", ["generation", "metageneration"])
@pytest.mark.parametrize("verb", sorted({*WRITES} - {"compose"}))
def test_write_with_a_not_match_that_fails_changes_nothing(
    bucket: storage.Bucket, verb: str, condition: str
) -> None:
    bucket.blob("object").upload_from_string("present")
    before = bucket.get_blob("object")
    argument = {f"if_{condition}_not_match": getattr(before, condition)}
    # The client misspells this one on uploads ("ifMetaGenerationNotMatch"), and what is
    # not known is refused: an upload without its condition would be worse.
    misspelt = "upload" in verb and condition == "metageneration"
    refusal = exceptions.MethodNotImplemented if misspelt else exceptions.PreconditionFailed
    with pytest.raises(refusal):
        WRITES[verb](bucket.blob("object"), argument)
    after = bucket.get_blob("object")
    assert (after.generation, after.metageneration) == (before.generation, before.metageneration)


@pytest.mark.parametrize("verb", READS)
def test_read_with_a_not_match_that_fails_is_not_modified(
    bucket: storage.Bucket, verb: str
) -> None:
    bucket.blob("object").upload_from_string("present")
    generation = bucket.get_blob("object").generation
    with pytest.raises(exceptions.NotModified):
        READS[verb](bucket.blob("object"), {"if_generation_not_match": generation})


@pytest.mark.parametrize(
    "verb", ["multipart upload", "resumable upload", "rewrite", "copy", "compose"]
)
def test_create_only_write_succeeds_once(bucket: storage.Bucket, verb: str) -> None:
    WRITES[verb](bucket.blob("object"), {"if_generation_match": 0})
    with pytest.raises(exceptions.PreconditionFailed):
        WRITES[verb](bucket.blob("object"), {"if_generation_match": 0})


@pytest.mark.parametrize("verb", ["rewrite", "copy"])
@pytest.mark.parametrize(
    "condition", ["if_source_generation_match", "if_source_metageneration_match"]
)
def test_copy_with_a_source_condition_that_fails_makes_nothing(
    bucket: storage.Bucket, verb: str, condition: str
) -> None:
    with pytest.raises(exceptions.PreconditionFailed):
        WRITES[verb](bucket.blob("object"), {condition: 12345})
    assert not bucket.blob("object").exists()


def test_source_generation_is_the_one_copied(bucket: storage.Bucket) -> None:
    bucket.versioning_enabled = True
    bucket.patch()
    source = bucket.blob("source")
    source.upload_from_string("one")
    bucket.blob("source").upload_from_string("two")
    copied = bucket.blob("copied")
    copied.rewrite(source)  # knows its generation, the older one
    assert copied.download_as_bytes() == b"one"


def test_conditions_that_fail_explain_themselves_in_json(
    origin: str, bucket: storage.Bucket
) -> None:
    bucket.blob("object").upload_from_string("x")
    url = f"{origin}/storage/v1/b/{bucket.name}/o/object"
    answer = requests.get(url, params={"ifGenerationMatch": 1}, timeout=30)
    assert answer.status_code == 412
    assert answer.json() == {
        "error": {
            "code": 412,
            "message": "At least one of the pre-conditions you specified did not hold.",
            "errors": [
                {
                    "message": "At least one of the pre-conditions you specified did not hold.",
                    "domain": "global",
                    "reason": "conditionNotMet",
                    "locationType": "header",
                    "location": "If-Match",
                }
            ],
        }
    }


def test_concurrent_create_only_uploads_have_one_winner(
    bucket: storage.Bucket,
) -> None:
    start = threading.Barrier(12)

    def create(number: int) -> int | None:
        start.wait(30)
        try:
            bucket.blob("lock").upload_from_string(str(number), if_generation_match=0)
        except exceptions.PreconditionFailed:
            return None
        return number

    with ThreadPoolExecutor(12) as pool:
        winners = [result for result in pool.map(create, range(12)) if result is not None]
    assert len(winners) == 1
    assert bucket.blob("lock").download_as_bytes() == str(winners[0]).encode()


# Listing


def test_listing_rolls_up_prefixes_over_pages(bucket: storage.Bucket) -> None:
    for name in ["a/1", "a/2", "b", "c/x/1", "c/y", "d", "ä/1"]:
        bucket.blob(name).upload_from_string("x")
    for page_size in (1, 2, 1000):
        listed = bucket.list_blobs(delimiter="/", page_size=page_size)
        assert [blob.name for blob in listed] == ["b", "d"]
        assert listed.prefixes == {"a/", "c/", "ä/"}
    below = bucket.list_blobs(prefix="c/", delimiter="/")
    assert ([blob.name for blob in below], below.prefixes) == (["c/y"], {"c/x/"})


def test_listing_more_than_one_batch_finds_everything(bucket: storage.Bucket) -> None:
    names = [f"p/{number:04}" for number in range(620)] + ["q"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: bucket.blob(name).upload_from_string(b""), names))
    assert [blob.name for blob in bucket.list_blobs(page_size=250)] == names
    rolled = bucket.list_blobs(delimiter="/")
    assert ([blob.name for blob in rolled], rolled.prefixes) == (["q"], {"p/"})
    assert len(list(bucket.list_blobs(max_results=7))) == 7


def test_listing_between_offsets_and_with_fields(bucket: storage.Bucket) -> None:
    for name in "abcd":
        bucket.blob(name).upload_from_string("x")
    listed = list(
        bucket.list_blobs(start_offset="b", end_offset="d", fields="items(name,size),nextPageToken")
    )
    assert [(blob.name, blob.size, blob.generation) for blob in listed] == [
        ("b", 1, None),
        ("c", 1, None),
    ]


# Copies


def test_rewrite_across_buckets_keeps_metadata_and_bytes(
    client: storage.Client, bucket: storage.Bucket
) -> None:
    data = os.urandom(MIB)
    source = bucket.blob("from")
    source.metadata = {"run": "47"}
    source.upload_from_string(data, content_type="application/x-model")
    other = client.create_bucket("other-bucket")
    target = other.blob("to")
    token, rewritten, total = target.rewrite(source, if_generation_match=0)
    assert (token, rewritten, total) == (None, len(data), len(data))
    target.reload()
    assert (target.crc32c, target.metadata) == (source.crc32c, {"run": "47"})
    assert target.content_type == "application/x-model"
    assert target.generation > source.generation


def test_rewrite_of_a_large_object_needs_several_calls(
    bucket: storage.Bucket, origin: str, folder: Path
) -> None:
    data = os.urandom(3 * MIB + 1)
    source = bucket.blob("large")
    source.upload_from_string(data)
    url = f"{origin}/storage/v1/b/{bucket.name}/o/large/rewriteTo/b/{bucket.name}/o/copy"
    token, calls = None, 0
    while True:
        query = {"maxBytesRewrittenPerCall": str(MIB)} | ({"rewriteToken": token} if token else {})
        answer = requests.post(url, params=query, json={}, timeout=30).json()
        calls += 1
        assert int(answer["totalBytesRewritten"]) == min(calls * MIB, len(data))
        if answer["done"]:
            break
        assert not bucket.blob("copy").exists()
        token = answer["rewriteToken"]
    assert calls == 4
    assert bucket.blob("copy").download_as_bytes() == data
    # The last answer may get lost: the same call again gives it again.
    assert requests.post(url, params=query, json={}, timeout=30).json() == answer
    assert list((folder / "incoming").iterdir()) == []


def test_service_that_limits_a_call_makes_the_client_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Storage(tmp_path, rewrite_call_bytes=MIB)
    service.start()
    with listening(service.app()) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{address}")
        bucket = storage.Client(project="p").create_bucket("limited")
        data = os.urandom(2 * MIB + 1)
        source = bucket.blob("source")
        source.upload_from_string(data)
        target, token, calls = bucket.blob("target"), None, 0
        while calls == 0 or token:
            token, _, _ = target.rewrite(source, token=token, if_generation_match=0)
            calls += 1
        assert calls == 3
        assert target.download_as_bytes() == data
        with pytest.raises(exceptions.GoogleAPICallError, match=r"^410"):
            target.rewrite(source, token="unknown")
    service.stop()


def test_compose_concatenates_in_order(bucket: storage.Bucket) -> None:
    parts = []
    for text in ("one,", "two,", "three"):
        part = bucket.blob(text)
        part.upload_from_string(text)
        parts.append(part)
    whole = bucket.blob("whole")
    whole.content_type = "text/csv"
    whole.compose(parts, if_source_generation_match=[part.generation for part in parts])
    whole.reload()
    assert whole.download_as_bytes() == b"one,two,three"
    assert (whole.component_count, whole.md5_hash) == (3, None)
    assert (whole.crc32c, whole.content_type) == (crc32c(b"one,two,three"), "text/csv")
    with pytest.raises(exceptions.PreconditionFailed):
        whole.compose(parts, if_source_generation_match=[1, 2, 3])


# What is not supported


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda bucket: bucket.get_iam_policy(retry=None), "/iam"),
        (lambda bucket: list(bucket.list_blobs(match_glob="**", retry=None)), "matchGlob"),
        (lambda bucket: list(bucket.list_blobs(soft_deleted=True, retry=None)), "softDeleted"),
        (
            lambda bucket: bucket.blob("x").upload_from_string(
                "x", predefined_acl="private", retry=None
            ),
            "predefinedAcl",
        ),
        (
            lambda bucket: bucket.blob("x", encryption_key=b"k" * 32).upload_from_string(
                "x", retry=None
            ),
            "encryption",
        ),
    ],
    ids=["iam", "glob", "soft delete", "acl", "encryption key"],
)
def test_what_is_not_supported_is_refused_by_name(
    bucket: storage.Bucket, call: Callable[[storage.Bucket], object], named: str
) -> None:
    with pytest.raises(exceptions.MethodNotImplemented, match=f"(?i){named}"):
        call(bucket)


# Kill -9

_SERVER = """
import sys
from pathlib import Path
from aiohttp import web
from localcloud.storage import Storage
service = Storage(Path(sys.argv[1]))
service.start()
web.run_app(service.app(), host="127.0.0.1", port=int(sys.argv[2]), print=None)
"""


def test_what_was_acknowledged_survives_kill_9(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = Ports(tmp_path).bind("storage")
    port = bound.getsockname()[1]
    bound.close()
    folder = tmp_path / "storage"
    origin = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", origin)

    def serve() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", _SERVER, str(folder), str(port)])

    def reachable() -> storage.Client:
        client = storage.Client(project="p")
        list(client.list_buckets())  # the client retries until the port answers
        return client

    data = os.urandom(MIB)
    first = serve()
    try:
        bucket = reachable().create_bucket("durable")
        blob = bucket.blob("object")
        blob.upload_from_string(data)
        half = begin_upload(origin, "durable", "half")
        assert send_chunk(half, data[: MIB // 2], f"0-{MIB // 2 - 1}/{MIB}").status_code == 308
    finally:
        first.kill()
        first.wait(30)
    # What a kill may leave behind: a file sealed before the commit that finishes its upload,
    # and files that no row points to.
    (half_file,) = (folder / "incoming").iterdir()
    half_file.rename(folder / "data" / half_file.name)
    (folder / "data" / "orphan").write_bytes(b"left over")
    (folder / "incoming" / "orphan").write_bytes(b"left over")
    second = serve()
    try:
        bucket = reachable().bucket("durable")
        found = bucket.get_blob("object")
        assert (found.generation, found.download_as_bytes()) == (blob.generation, data)
        rest = send_chunk(half, data[MIB // 2 :], f"{MIB // 2}-{MIB - 1}/{MIB}")
        assert rest.status_code == 200
        assert bucket.blob("half").download_as_bytes() == data
        assert not list(folder.rglob("orphan"))
        assert bucket.get_blob("half").generation > blob.generation
    finally:
        second.kill()
        second.wait(30)
