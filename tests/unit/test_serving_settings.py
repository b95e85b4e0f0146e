"""The environment of a revision, the CPUs that it was given, and its logs."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

from serving.cpus import cpus_given
from serving.errors import InvalidConfiguration
from serving.logs import JsonLines, log, trace_fields
from serving.settings import Artifact, read_settings

ENVIRONMENT = {
    "MODEL_ID": "movies",
    "MODEL_PATH": "gs://bucket/models/movies/v3/",
    "MODEL_VERSION": "v3",
    "MODEL_DIGEST": "sha256:" + "a" * 64,
    "TRAINING_RUN": "47",
    "PORT": "9000",
}
TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


def test_environment_of_a_revision_is_read() -> None:
    settings = read_settings(ENVIRONMENT)
    assert settings.artifact == Artifact("bucket", "models/movies/v3/", "sha256:" + "a" * 64)
    assert (settings.model_id, settings.model_version) == ("movies", "v3")
    assert (settings.training_run, settings.port) == (47, 9000)


def test_what_was_prepared_is_read() -> None:
    settings = read_settings(ENVIRONMENT)
    assert (settings.prepared_digest, settings.retrieval) == (None, "exact")
    digest = "sha256:" + "b" * 64
    settings = read_settings({**ENVIRONMENT, "PREPARED_DIGEST": digest, "RETRIEVAL": "approximate"})
    assert (settings.prepared_digest, settings.retrieval) == (digest, "approximate")
    empty = read_settings({**ENVIRONMENT, "PREPARED_DIGEST": "", "RETRIEVAL": ""})
    assert (empty.prepared_digest, empty.retrieval) == (None, "exact")


def test_without_model_path_it_is_the_empty_v0_on_loopback() -> None:
    settings = read_settings({"MODEL_ID": "movies"})
    assert settings.artifact is None
    assert (settings.model_id, settings.model_version) == ("movies", "v0")
    assert settings.host == "127.0.0.1"


@pytest.mark.parametrize("name", ["MODEL_ID", "MODEL_VERSION", "MODEL_DIGEST", "TRAINING_RUN"])
def test_missing_variable_is_named(name: str) -> None:
    with pytest.raises(InvalidConfiguration, match=f"{name} is not set"):
        read_settings({key: value for key, value in ENVIRONMENT.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODEL_PATH", "/models/movies"),
        ("MODEL_PATH", "gs://bucket"),
        ("MODEL_VERSION", "3"),
        ("MODEL_DIGEST", "sha256:short"),
        ("TRAINING_RUN", "latest"),
        ("PORT", "http"),
        ("USAGE_FLUSH_S", "0"),
        ("PREPARED_DIGEST", "sha256:short"),
        ("RETRIEVAL", "fast"),
    ],
)
def test_variable_that_cannot_be_right_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidConfiguration, match=f"{name} is '{re.escape(value)}'"):
        read_settings({**ENVIRONMENT, name: value})


@pytest.mark.parametrize(
    ("quota", "at_most"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", 10**6)]
)
def test_quota_of_the_container_bounds_the_cpus(tmp_path: Path, quota: str, at_most: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert 1 <= cpus_given(tmp_path) <= at_most


def test_log_line_is_one_json_object_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "serving"):
        log("INFO", "healthy", healthy_ms=12)
    entry = json.loads(JsonLines().format(caplog.records[0]))
    assert entry.items() >= {"severity": "INFO", "message": "healthy", "healthy_ms": 12}.items()


def test_log_line_of_a_library_is_json_too() -> None:
    record = logging.LogRecord("google", logging.WARNING, "", 1, "two\nlines %d", (2,), None)
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line).items() >= {"severity": "WARNING", "logger": "google"}.items()


@pytest.mark.parametrize(
    ("traceparent", "cloud_trace", "span"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", "", {"spanId": SPAN, "trace_sampled": True}),
        (f"00-{TRACE}-b7ad6b7169203331-00", "", {"spanId": SPAN, "trace_sampled": False}),
        ("", f"{TRACE}/123;o=1", {}),
        ("", TRACE, {}),
    ],
    ids=["w3c", "w3c, not sampled", "google", "google without span"],
)
def test_trace_of_the_request_is_named_as_cloud_logging_wants_it(
    traceparent: str, cloud_trace: str, span: dict[str, object]
) -> None:
    expected = {"trace": f"projects/p/traces/{TRACE}", **span}
    assert trace_fields(traceparent, cloud_trace, "p") == {
        f"logging.googleapis.com/{name}": value for name, value in expected.items()
    }


def test_header_that_is_no_trace_adds_nothing() -> None:
    assert trace_fields("00-evil\n-01", "", "p") == {}
