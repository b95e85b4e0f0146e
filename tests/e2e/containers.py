"""Stand-ins for container images: what goes wrong in a container, and not in its model.

`python -m tests.e2e.containers FAULT` shows the fault where TRAINING_RUN is odd; an even run
is served as it should be, so the same model can be deployed after the fault. FAULT is

    crash     write a last line and exit with code 3
    deaf      listen, and never be healthy
    replace   replace an artifact in the serving bucket, as soon as it was copied
    rewrite   rewrite the manifest in the serving bucket, as soon as it was written
    failing   be healthy, and answer 500 for the customers whose number ends in 3
    none      no fault at all

`replace`, `rewrite` and `crash` become the real serving container afterwards (or for an even
run). The others, and every empty v0 here, answer by themselves with the serving container's own
bodies, because that takes a tenth of a second instead of the seconds that TensorFlow needs. As a
job (`FAULT prepare`) each of them finds the model good, for the same reason.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from localcloud.calls import CALLER, PERSON

LAST_WORDS = "cannot mount /models: the disk of this container is full"
DEAF_REASON = "still reading the product catalogue"
PRODUCTS = 20
REPLACED_FILE = "saved_model/saved_model.pb"


def main(fault: str, prepare: bool) -> None:
    """Be the container that the environment asks for."""
    if prepare:
        _write_verdict()
        return
    run = int(os.environ.get("TRAINING_RUN", "0"))
    faulty = run % 2 == 1
    if faulty and fault == "crash":
        print("starting", "connecting", LAST_WORDS, sep="\n", flush=True)
        sys.exit(3)
    if faulty and fault in ("replace", "rewrite"):
        _tamper(fault)
    if run and fault in ("crash", "replace", "rewrite"):
        os.execv(sys.executable, [sys.executable, "-m", "serving"])
    reason = "" if run else "no model is deployed yet"
    failing = "3" if faulty and fault == "failing" else ""
    serve(DEAF_REASON if faulty and fault == "deaf" else reason, failing)


def _write_verdict() -> None:
    objects, prefix = _version_folder()
    verdict = {
        "schema_version": 1,
        "digest": os.environ["MODEL_DIGEST"],
        "task": 0,
        "tasks": 1,
        "refused": "",
        "code": "",
        "files": [],
        "products": PRODUCTS,
        "customers": 0,
        "top_k": 0,
        "recall": None,
    }
    blob = objects.blob(prefix + "prepared/task-00000-of-00001.json")
    blob.upload_from_string(json.dumps(verdict), content_type="application/json")


def _version_folder() -> tuple[Any, str]:
    """Return the serving bucket, and the prefix of this version's objects in it."""
    from google.cloud import storage

    bucket, _, prefix = os.environ["MODEL_PATH"].removeprefix("gs://").partition("/")
    client = storage.Client(
        project=os.environ["GOOGLE_CLOUD_PROJECT"],
        # The tests' doing, and not what a container ever calls.
        extra_headers={CALLER: PERSON},
    )
    return client.bucket(bucket), prefix


def _tamper(fault: str) -> None:
    objects, prefix = _version_folder()
    if fault == "replace":
        objects.blob(prefix + REPLACED_FILE).upload_from_string(b"another model altogether")
        return
    blob = objects.blob(prefix + "manifest.json")
    manifest = json.loads(blob.download_as_bytes())
    manifest["files"][0]["size"] += 1
    blob.upload_from_string(json.dumps(manifest), content_type="application/json")


def serve(unhealthy: str, failing: str = "") -> None:
    """Answer as the serving container does, unhealthy with that reason if there is one.

    Customers whose name ends in `failing` are answered 500.
    """
    version = os.environ.get("MODEL_VERSION", "")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if unhealthy:
                about = {"status": "unhealthy", "reason": unhealthy, "model_version": version}
                self._send(503, about)
            else:
                self._send(200, _health(version))

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if unhealthy:
                self._send(503, {"status": 503, "code": "model_not_ready", "detail": unhealthy})
                return
            customers = asked.get("customer_ids") or [asked["customer_id"]]
            if failing and any(customer.endswith(failing) for customer in customers):
                self._send(500, {"status": 500, "code": "internal", "detail": "it broke"})
                return
            results = [_recommended(customer, asked["top_k"]) for customer in customers]
            one = self.path == "/recommend"
            self._send(
                200, {**(results[0] if one else {"results": results}), "model_version": version}
            )

        def log_message(self, *_: Any) -> None:
            """Say nothing for each request."""

        def _send(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
    # shutdown() waits for serve_forever, which runs in this very thread.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
    server.server_close()


def _health(version: str) -> dict[str, Any]:
    return {
        "status": "healthy",
        "model_id": os.environ["MODEL_ID"],
        "model_version": version,
        "training_run": int(os.environ["TRAINING_RUN"]),
        "artifact_digest": os.environ["MODEL_DIGEST"],
        "products": PRODUCTS,
    }


def _recommended(customer: str, top_k: int) -> dict[str, Any]:
    scored = [
        {"product_id": f"P{number:03}", "score": 1.0 - number / PRODUCTS} for number in range(top_k)
    ]
    return {"customer_id": customer, "recommendations": scored}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] == ["prepare"])
