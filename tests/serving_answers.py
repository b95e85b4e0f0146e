"""Checks answers of the serving container against the OpenAPI document that it serves."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

COMPARED_HEADERS = (
    "Content-Type",
    "Content-Length",
    "Connection",
    "Retry-After",
    "WWW-Authenticate",
    "Allow",
    "Cache-Control",
    "X-Content-Type-Options",
)


def assert_documented(
    document: dict[str, Any], path: str, method: str, status: int, content_type: str, body: Any
) -> None:
    """Fail unless the document describes this answer: its status, content type and body.

    Paths and methods that the document does not have may only be answered with a problem.
    """
    operation = document["paths"].get(path, {}).get(method.lower())
    if operation is None:
        assert status in (404, 405)
        schema: dict[str, Any] = {"$ref": "#/components/schemas/Problem"}
        assert content_type == "application/problem+json"
    else:
        assert str(status) in operation["responses"], f"{status} of {path} is not documented"
        content = operation["responses"][str(status)]["content"]
        assert content_type in content, f"{content_type} of {path} {status} is not documented"
        schema = content[content_type]["schema"]
    validator = Draft202012Validator({**schema, "components": document["components"]})
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(body)]
    assert not errors, errors
    if content_type == "application/problem+json":
        assert body["status"] == status
