"""The prediction API as its pages show it, out of the serving container's OpenAPI document.

The container is not part of this bundle, so its document lies here as a file; a test keeps
the two equal, and writes it anew where it is asked to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parent / "serving_openapi.json"
_HIDDEN = frozenset({"/openapi.json"})
_SAMPLES: dict[str, Any] = {
    "type": "about:blank",
    "known": None,
    "artifact_digest": "sha256:9f2c…",
    "model_id": "movies",
    "products": 9066,
    "customers": 671,
    "status": "healthy",
}


@dataclass(frozen=True)
class Endpoint:
    """One path: `request` and `response` are JSON examples, `refusals` status and meaning."""

    method: str
    path: str
    summary: str
    needs_key: bool
    request: str
    response: str
    refusals: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CodeExample:
    """How one language asks for recommendations."""

    language: str
    code: str


@cache
def document() -> dict[str, Any]:
    """Return the container's OpenAPI document."""
    loaded: dict[str, Any] = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    return loaded


@cache
def endpoints() -> tuple[Endpoint, ...]:
    """Return what the container answers, in the document's order."""
    return tuple(
        _endpoint(path, method, operation)
        for path, operations in document()["paths"].items()
        if path not in _HIDDEN
        for method, operation in operations.items()
    )


def code_examples(url: str) -> list[CodeExample]:
    """Return the same request in five languages, with the real endpoint."""
    one = next(one for one in endpoints() if one.path == "/recommend")
    request = json.dumps(json.loads(one.request))
    return [
        CodeExample(language, code.replace("URL_", url).replace("BODY_", request))
        for language, code in _CODE.items()
    ]


def _endpoint(path: str, method: str, operation: dict[str, Any]) -> Endpoint:
    body = operation.get("requestBody")
    refusals = tuple(
        (status, str(answer["description"]))
        for status, answer in sorted(operation["responses"].items())
        if status != "200"
    )
    return Endpoint(
        method=method.upper(),
        path=path,
        summary=str(operation["summary"]),
        needs_key=bool(operation.get("security")),
        request=_shown(body) if body else "",
        response=_shown(operation["responses"]["200"]),
        refusals=refusals,
    )


def _shown(body: dict[str, Any]) -> str:
    schema = body["content"]["application/json"]["schema"]
    return json.dumps(_example(schema), indent=2, ensure_ascii=False)


def _example(schema: dict[str, Any], name: str = "") -> Any:
    """Return an example value of a schema: its own, its default, or one of its type."""
    if "$ref" in schema:
        return _example(document()["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]])
    if schema.get("examples"):
        return schema["examples"][0]
    if "default" in schema:
        return schema["default"]
    if "const" in schema:
        return schema["const"]
    if name in _SAMPLES:
        return _SAMPLES[name]
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], name)
    if schema.get("type") == "array":
        return [_example(schema["items"], name)]
    if schema.get("type") == "object":
        required = schema.get("required", [])
        return {
            field: _example(inner, field)
            for field, inner in schema["properties"].items()
            if field in required or "default" in inner
        }
    return {"string": "C001234" if name == "customer_id" else name, "integer": 10, "number": 0.5}[
        schema["type"]
    ]


_CODE = {
    "Python": """import requests

API_URL = "URL_"
API_KEY = "your-api-key"

response = requests.post(
    f"{API_URL}/recommend",
    json=BODY_,
    headers={"Authorization": f"Bearer {API_KEY}"},
    timeout=10,
)
response.raise_for_status()
for one in response.json()["recommendations"]:
    print(one["product_id"], one["score"])
""",
    "curl": """API_KEY=your-api-key

curl --fail-with-body "URL_/recommend" \\
  -H "Authorization: Bearer $API_KEY" \\
  -H "Content-Type: application/json" \\
  -d 'BODY_'
""",
    "JavaScript": """const API_URL = "URL_";
const API_KEY = "your-api-key";

const response = await fetch(`${API_URL}/recommend`, {
  method: "POST",
  headers: {
    Authorization: `Bearer ${API_KEY}`,
    "Content-Type": "application/json",
  },
  body: JSON.stringify(BODY_),
});
if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
const { recommendations } = await response.json();
console.log(recommendations);
""",
    "Go": """package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"strings"
)

const apiURL, apiKey = "URL_", "your-api-key"

func main() {
	body := strings.NewReader(`BODY_`)
	request, err := http.NewRequest("POST", apiURL+"/recommend", body)
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+apiKey)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		log.Fatal(response.Status)
	}
	var answer struct {
		Recommendations []struct {
			ProductID string  `json:"product_id"`
			Score     float64 `json:"score"`
		} `json:"recommendations"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer.Recommendations)
}
""",
    "Java": '''import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class Recommend {
    static final String API_URL = "URL_";
    static final String API_KEY = "your-api-key";

    public static void main(String[] args) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(API_URL + "/recommend"))
            .header("Authorization", "Bearer " + API_KEY)
            .header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString("""
                BODY_"""))
            .build();
        var response = HttpClient.newHttpClient()
            .send(request, HttpResponse.BodyHandlers.ofString());
        if (response.statusCode() != 200) {
            throw new IllegalStateException(response.statusCode() + ": " + response.body());
        }
        System.out.println(response.body());
    }
}
''',
}
