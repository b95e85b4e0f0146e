"""Modules json, base64, hash, uuid and time."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import uuid
import zoneinfo

from localcloud.workflows.errors import failure
from localcloud.workflows.evaluate import checked_string
from localcloud.workflows.library.registry import expect, function
from localcloud.workflows.values import Value, from_json, to_json

_ALGORITHMS = ("MD5", "SHA1", "SHA224", "SHA256", "SHA384", "SHA512")


@function("json.decode")
def json_decode(data: Value) -> Value:
    """Return the value of JSON text, given as bytes or a string."""
    try:
        return from_json(expect(data, "data", "bytes", "string"))
    except ValueError as wrong:
        raise failure("ValueError", f"not JSON: {wrong}") from None


@function("json.encode")
def json_encode(data: Value, indent: Value = False) -> bytes:
    """Return a value as JSON, in bytes."""
    return json_encode_to_string(data, indent).encode()


@function("json.encode_to_string")
def json_encode_to_string(data: Value, indent: Value = False) -> str:
    """Return a value as JSON; `indent` is true or `{prefix: "", indent: four spaces}`."""
    if expect(indent, "indent", "boolean", "map") is False:
        return checked_string(to_json(data))
    style = indent if isinstance(indent, dict) else {}
    unknown = set(style) - {"prefix", "indent"}
    if unknown:
        raise failure("ValueError", f"indent has no attribute {min(unknown)!r}")
    prefix = expect(style.get("prefix", ""), "indent.prefix", "string")
    lines = to_json(data, indent=expect(style.get("indent", "    "), "indent.indent", "string"))
    return checked_string(lines.replace("\n", f"\n{prefix}"))


@function("base64.encode")
def base64_encode(data: Value, padding: Value = True) -> str:
    """Return bytes as Base64 text."""
    text = base64.b64encode(expect(data, "data", "bytes")).decode()
    return text if expect(padding, "padding", "boolean") else text.rstrip("=")


@function("base64.decode")
def base64_decode(data: Value, padding: Value = True) -> bytes:
    """Return the bytes of Base64 text."""
    text = expect(data, "data", "string")
    if not expect(padding, "padding", "boolean"):
        text += "=" * (-len(text) % 4)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as wrong:
        raise failure("ValueError", f"not Base64: {wrong}") from None


@function("hash.compute_checksum")
def compute_checksum(data: Value, algorithm: Value) -> bytes:
    """Return the checksum of bytes."""
    return hashlib.new(_algorithm(algorithm), expect(data, "data", "bytes")).digest()


@function("hash.compute_hmac")
def compute_hmac(key: Value, data: Value, algorithm: Value) -> bytes:
    """Return the keyed hash of bytes."""
    return hmac.digest(
        expect(key, "key", "bytes"), expect(data, "data", "bytes"), _algorithm(algorithm)
    )


@function("uuid.generate")
def generate() -> str:
    """Return a random UUID."""
    return str(uuid.uuid4())


@function("time.format")
def time_format(seconds: Value, timezone: Value = "UTC") -> str:
    """Return a time (seconds since 1970) as ISO 8601 in microseconds, such as ...:54.615087Z."""
    expect(seconds, "seconds", "integer", "double")
    zone = expect(timezone, "timezone", "string") or "UTC"
    try:
        moment = dt.datetime.fromtimestamp(seconds, zoneinfo.ZoneInfo(zone))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OverflowError, OSError) as wrong:
        raise failure("ValueError", f"cannot format {seconds} in {zone!r}: {wrong}") from None
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


@function("time.parse")
def time_parse(value: Value) -> float:
    """Return the time of an ISO 8601 text with a zone, in seconds since 1970."""
    return moment_of(expect(value, "value", "string"))


def moment_of(text: str) -> float:
    """Return the seconds since 1970 of an ISO 8601 text; ValueError without a zone."""
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise failure("ValueError", f"{text!r} is not an ISO 8601 time") from None
    if moment.tzinfo is None:
        raise failure("ValueError", f"{text!r} has no time zone")
    return moment.timestamp()


def _algorithm(name: Value) -> str:
    if expect(name, "algorithm", "string") not in _ALGORITHMS:
        raise failure("ValueError", f"algorithm {name!r} is not one of {', '.join(_ALGORITHMS)}")
    return str(name).lower()
