"""Module sys."""

from __future__ import annotations

from localcloud.workflows import limits
from localcloud.workflows.errors import failure
from localcloud.workflows.library.encoding import moment_of
from localcloud.workflows.library.helpers import string
from localcloud.workflows.library.registry import Host, expect, function
from localcloud.workflows.values import Value, to_json

_SEVERITIES = (
    "DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY",
)  # fmt: skip
_LOGGABLE = ("integer", "double", "boolean", "string", "list", "map")
_ABSENT = object()


@function("sys.get_env")
def get_env(host: Host, name: Value, default: Value = _ABSENT) -> str:
    """Return an environment variable; KeyError where it is not set and has no default."""
    if default is not _ABSENT:
        expect(default, "default", "string")
    if expect(name, "name", "string") in host.environment:
        return host.environment[name]
    if default is _ABSENT:
        raise failure("KeyError", f'environment variable not found: "{name}"')
    return str(default)


@function("sys.now")
def now(host: Host) -> float:
    """Return seconds since 1970."""
    return host.now()


@function("sys.sleep", blocking=True)
def sleep(host: Host, seconds: Value) -> None:
    """Pause for up to a year."""
    _pause(host, expect(seconds, "seconds", "integer", "double"))


@function("sys.sleep_until", blocking=True)
def sleep_until(host: Host, time: Value) -> None:
    """Pause until an ISO 8601 time, at most a year away; one that has passed is no pause."""
    _pause(host, max(0.0, moment_of(expect(time, "time", "string")) - host.now()))


@function("sys.log", blocking=True)
def log(
    host: Host,
    data: Value = None,
    severity: Value = "DEFAULT",
    text: Value = None,
    json: Value = None,
    timeout: Value = None,
) -> None:
    """Write one of `data`, `text` or `json` to the log."""
    if expect(severity, "severity", "string") not in _SEVERITIES:
        raise failure("ValueError", f"severity {severity!r} is not one of {', '.join(_SEVERITIES)}")
    # A line in a local file cannot take long enough to exceed any timeout.
    expect(timeout, "timeout", "integer", "double", "null")
    given = [value for value in (data, text, json) if value is not None]
    if len(given) != 1:
        raise failure("TypeError", "sys.log takes exactly one of data, text and json")
    if json is not None or isinstance(data, dict):
        host.log(severity, "jsonPayload", expect(given[0], "json", "map"))
        return
    expect(given[0], "data" if text is None else "text", *_LOGGABLE)
    as_text = to_json(given[0]) if isinstance(given[0], list | dict) else string(given[0])
    host.log(severity, "textPayload", as_text)


def _pause(host: Host, seconds: float) -> None:
    if not 0 <= seconds <= limits.SLEEP_S:
        raise failure("ValueError", f"cannot sleep {seconds} s; 0 to {limits.SLEEP_S} can be slept")
    host.pause(seconds)
