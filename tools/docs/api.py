"""docs/reference/api.md: both APIs, from their OpenAPI documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tools.docs.markdown import code, generated, one_line, table
from tools.docs.schema import default_of, limits_of, type_of
from turnout.dashboard import Api, document_of

Document = Mapping[str, Any]


def page() -> str:
    """Return the page."""
    return "\n".join(
        [
            generated(
                "APIs",
                "the two OpenAPI documents",
                "Each API describes itself: `turnout openapi dashboard` and "
                "`turnout openapi serving` print the OpenAPI 3.1 documents from which this page "
                "is written. The dashboard shows its own under `/api/docs/`; a serving container "
                "answers with its own at `/openapi.json`. Errors of both: [errors](errors.md).",
            ),
            "## Prediction API\n",
            "Each model's service. `Authorization: Bearer KEY` where a key is asked for: "
            "`turnout keys create`.\n",
            *_operations(document_of(Api.SERVING)),
            "## Deployment API\n",
            "Below the dashboard's address. " + document_of(Api.DASHBOARD)["info"]["description"],
            "",
            *_operations(document_of(Api.DASHBOARD)),
            "## What the prediction API sends and takes\n",
            *_schemas(document_of(Api.SERVING), "###"),
            "## What the deployment API sends and takes\n",
            *_schemas(document_of(Api.DASHBOARD), "###", skip={"Problem"}),
        ]
    )


def _operations(document: Document) -> Iterator[str]:
    definitions = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"### {method.upper()} {path}\n"
            yield f"{_sentence(operation)}\n"
            rows = [
                [
                    code(one["name"]),
                    one["in"],
                    type_of(one["schema"], definitions),
                    "yes" if one.get("required") else default_of(one["schema"]),
                    limits_of(one["schema"]),
                ]
                for one in operation.get("parameters", [])
            ]
            if rows:
                columns = ["Parameter", "In", "Type", "Required, or default", "Limits"]
                yield table(columns, rows)
            if body := operation.get("requestBody"):
                schema = body["content"]["application/json"]["schema"]
                yield f"Takes {type_of(schema, definitions)}.\n"
            yield f"{_answers(operation['responses'], definitions)}\n"


def _sentence(operation: Document) -> str:
    more = one_line(str(operation.get("description", "")).replace("<br/>", " "))
    key = "Takes an API key." if {"apiKey": []} in operation.get("security", []) else ""
    said = [f"{str(operation['summary']).rstrip('.')}.", more, key]
    return " ".join(filter(None, said))


def _answers(responses: Document, definitions: Document) -> str:
    good, bad = [], []
    for status, answer in sorted(responses.items()):
        content = answer.get("content", {}).get("application/json")
        if status < "400":
            kind = f" {type_of(content['schema'], definitions)}" if content else ""
            good.append(f"{status}{kind}")
        else:
            bad.append(status)
    return f"Answers {', '.join(good)}" + (f"; refuses with {', '.join(bad)}." if bad else ".")


def _schemas(document: Document, heading: str, skip: set[str] | None = None) -> Iterator[str]:
    definitions = document["components"]["schemas"]
    for name, schema in definitions.items():
        if "properties" not in schema or name in (skip or set()):
            continue
        required = schema.get("required", [])
        yield f"{heading} {name}\n"
        if schema.get("description"):
            yield f"{one_line(schema['description'])}\n"
        yield table(
            ["Field", "Type", "Always there, or default", "Meaning and limits"],
            [
                [
                    code(field),
                    type_of(found, definitions),
                    "yes" if field in required else default_of(found),
                    "; ".join(filter(None, [found.get("description", ""), limits_of(found)])),
                ]
                for field, found in schema["properties"].items()
            ],
        )
