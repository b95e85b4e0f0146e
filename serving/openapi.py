"""The OpenAPI document, generated from the messages."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving import messages

_PROBLEMS = {
    400: "The request cannot be answered as it is: `detail` says what to change.",
    401: "The API key is missing, unknown, revoked, expired or another model's.",
    413: "The body is larger than 1 MiB.",
    415: "The body is not declared as application/json.",
    429: "The API key has sent what it may in this minute; come again after Retry-After.",
    500: "The model failed on this request.",
    503: "No model answers yet, or API keys cannot be looked up; try again after Retry-After.",
}


def openapi_document(title: str) -> dict[str, Any]:
    """Return the document (OpenAPI 3.1) of the four paths that the container answers."""
    models: list[type[BaseModel]] = [
        messages.RecommendRequest,
        messages.RecommendBatchRequest,
        messages.RecommendResponse,
        messages.RecommendBatchResponse,
        messages.Healthy,
        messages.Paths,
        messages.NotHealthy,
        messages.Problem,
    ]
    _, schemas = models_json_schema(
        [(model, "validation") for model in models],
        ref_template="#/components/schemas/{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1"},
        "paths": {
            "/health": {
                "get": {
                    "operationId": "health",
                    "summary": "Health check endpoint",
                    "responses": {
                        "200": _answer("The model answers.", messages.Healthy),
                        "503": _answer("No model answers yet, and why.", messages.NotHealthy),
                    },
                }
            },
            "/recommend": {
                "post": _question(
                    "recommend",
                    "Get recommendations for a single customer",
                    messages.RecommendRequest,
                    messages.RecommendResponse,
                )
            },
            "/recommend-batch": {
                "post": _question(
                    "recommendBatch",
                    f"Get recommendations for multiple customers (max {messages.MAX_CUSTOMERS})",
                    messages.RecommendBatchRequest,
                    messages.RecommendBatchResponse,
                )
            },
            "/openapi.json": {
                "get": {
                    "operationId": "openapi",
                    "summary": "This document",
                    "responses": {
                        "200": {
                            "description": "The document.",
                            "content": {"application/json": {"schema": {"type": "object"}}},
                        }
                    },
                }
            },
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Authorization: Bearer YOUR_API_KEY",
                }
            },
        },
    }


def _question(
    operation: str, summary: str, request: type[BaseModel], response: type[BaseModel]
) -> dict[str, Any]:
    problems = {
        str(status): {
            "description": description,
            "content": {"application/problem+json": {"schema": _reference(messages.Problem)}},
        }
        for status, description in _PROBLEMS.items()
    }
    return {
        "operationId": operation,
        "summary": summary,
        "security": [{"apiKey": []}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _reference(request)}},
        },
        "responses": {"200": _answer("The recommendations.", response), **problems},
    }


def _answer(description: str, model: type[BaseModel]) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": _reference(model)}},
    }


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
