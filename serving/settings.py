"""What the revision's environment says: which model, which version, where to listen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from serving.errors import InvalidConfiguration

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_GS_FOLDER = re.compile(r"gs://(?P<bucket>[^/]+)/(?P<prefix>.+/)")


@dataclass(frozen=True)
class Artifact:
    """One version's files: `gs://bucket/prefix` (the prefix ends in `/`) and their digest."""

    bucket: str
    prefix: str
    digest: str


@dataclass(frozen=True)
class Settings:
    """The process's settings; without `artifact` it is the empty v0, which serves no model.

    `prepared_digest` is None where no answers were prepared. Usage is written every
    `usage_flush_s` seconds: what a kill may lose. `extra_ops` are operations that the model may
    hold although they reach beyond it: see `graph_ops`. `traceparent` is the deployment's root
    span, "" where nothing is to be told of.
    """

    model_id: str | None
    model_version: str
    training_run: int | None
    artifact: Artifact | None
    host: str
    port: int
    project: str | None
    usage_flush_s: int = 60
    prepared_digest: str | None = None
    retrieval: Literal["exact", "approximate"] = "exact"
    extra_ops: frozenset[str] = frozenset()
    traceparent: str = ""


def read_settings(env: Mapping[str, str]) -> Settings:
    """Return the settings in `env`; raises InvalidConfiguration naming the variable."""
    has_model = bool(env.get("MODEL_PATH"))
    return Settings(
        model_id=_required(env, "MODEL_ID") if has_model else env.get("MODEL_ID"),
        model_version=_version(env) if has_model else env.get("MODEL_VERSION", "v0"),
        training_run=read_integer(env, "TRAINING_RUN") if has_model else None,
        artifact=_artifact(env) if has_model else None,
        # A program started by hand is for its own machine; the image says 0.0.0.0.
        host=env.get("HOST", "127.0.0.1"),
        port=read_integer(env, "PORT") if "PORT" in env else 8080,
        project=env.get("TURNOUT_PROJECT") or env.get("GOOGLE_CLOUD_PROJECT"),
        usage_flush_s=_flush_s(env) if "USAGE_FLUSH_S" in env else 60,
        prepared_digest=_digest(env, "PREPARED_DIGEST") if env.get("PREPARED_DIGEST") else None,
        retrieval=_retrieval(env),
        extra_ops=frozenset(filter(None, env.get("MODEL_EXTRA_OPS", "").split(","))),
        traceparent=_traceparent(env) if has_model else "",
    )


def _artifact(env: Mapping[str, str]) -> Artifact:
    path, digest = env["MODEL_PATH"], _digest(env, "MODEL_DIGEST")
    match = _GS_FOLDER.fullmatch(path if path.endswith("/") else path + "/")
    if match is None:
        raise InvalidConfiguration(f"MODEL_PATH is {path!r}; it must be gs://BUCKET/FOLDER/")
    return Artifact(bucket=match["bucket"], prefix=match["prefix"], digest=digest)


def _digest(env: Mapping[str, str], name: str) -> str:
    digest = _required(env, name)
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise InvalidConfiguration(f"{name} is {digest!r}; it must be sha256:<64 hex digits>")
    return digest


def _retrieval(env: Mapping[str, str]) -> Literal["exact", "approximate"]:
    retrieval = env.get("RETRIEVAL") or "exact"
    if retrieval not in ("exact", "approximate"):
        raise InvalidConfiguration(f"RETRIEVAL is {retrieval!r}; it must be exact or approximate")
    return retrieval


def _traceparent(env: Mapping[str, str]) -> str:
    """Tracing is never worth a start: what is no traceparent is none."""
    off = env.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if off or env.get("OTEL_TRACES_EXPORTER") != "otlp":
        return ""
    given = env.get("TRACEPARENT", "")
    return given if _TRACEPARENT.fullmatch(given) else ""


def _flush_s(env: Mapping[str, str]) -> int:
    flush_s = read_integer(env, "USAGE_FLUSH_S")
    if not 1 <= flush_s <= 3600:
        raise InvalidConfiguration(f"USAGE_FLUSH_S is '{flush_s}'; it must be 1 to 3600")
    return flush_s


def _version(env: Mapping[str, str]) -> str:
    version = _required(env, "MODEL_VERSION")
    if not re.fullmatch(r"v[1-9][0-9]*", version):
        raise InvalidConfiguration(f"MODEL_VERSION is {version!r}; it must be like v3")
    return version


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name)
    if not value:
        raise InvalidConfiguration(f"{name} is not set; a revision with MODEL_PATH needs it")
    return value


def read_integer(env: Mapping[str, str], name: str) -> int:
    """Return a variable that is a whole number; raises InvalidConfiguration."""
    value = _required(env, name)
    if not value.isascii() or not value.isdigit():
        raise InvalidConfiguration(f"{name} is {value!r}; it must be a whole number")
    return int(value)
