"""Just enough of the local cloud to run the serving container from: Storage and Firestore."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from aiohttp import web
from google.cloud import firestore, storage

from functions.copy_artifacts import MANIFEST, digest_of
from localcloud.firestore import Firestore
from localcloud.ports import HOST
from localcloud.storage import Storage
from shared.gcp.firestore import FirestoreKeys
from turnout.demo import ROOT

PROJECT, BUCKET, MODEL_ID = "bench-local", "bench-local-serving", "bench"
VERSION, TRAINING_RUN = 1, 1
KEY_S = 24 * 3600


class NotPrepared(RuntimeError):
    """The preparation of a model ended badly; the message is its output."""


@dataclass(frozen=True)
class Revision:
    """One version in the bucket: what a revision's environment says of it."""

    prefix: str
    environment: Mapping[str, str]


class Cloud:
    """The services, their address for Google's clients, and one API key."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._bucket = storage.Client(project=PROJECT).create_bucket(BUCKET)
        keys = FirestoreKeys(firestore.Client(project=PROJECT))
        _, self.key = keys.create(MODEL_ID, "benchmark", "benchmark", KEY_S)

    def publish(self, model: Path, name: str) -> Revision:
        """Put an artifact tree where the pipeline would, with its manifest, as version 1."""
        prefix = f"models/{name}/v{VERSION}/"
        files = []
        for path in sorted(model.rglob("*")):
            inside = path.relative_to(model)
            if path.is_file() and (
                inside.parts[0] == "saved_model" or path.name == "customers.txt"
            ):
                blob = self._bucket.blob(f"{prefix}{inside}")
                blob.upload_from_filename(str(path), timeout=600)
                files.append(_file(str(inside), blob))
        manifest = {
            "schema_version": 1,
            "model_id": MODEL_ID,
            "version": VERSION,
            "training_run": TRAINING_RUN,
            "source": "benchmark",
            "files": files,
            "digest": digest_of(files),
        }
        self._write(prefix + MANIFEST, manifest)
        return Revision(
            prefix,
            {
                **self.environment,
                "MODEL_ID": MODEL_ID,
                "MODEL_PATH": f"gs://{BUCKET}/{prefix}",
                "MODEL_VERSION": f"v{VERSION}",
                "MODEL_DIGEST": str(manifest["digest"]),
                "TRAINING_RUN": str(TRAINING_RUN),
                "RETRIEVAL": "exact",
                "K_SERVICE": f"model-serving-{MODEL_ID}",
                "K_REVISION": f"model-serving-{MODEL_ID}-v1-1",
            },
        )

    def prepare(self, revision: Revision, top_k: int, customers: int | None) -> Revision:
        """Prepare the answers as the pipeline's job does, with one task; NotPrepared."""
        environment = {
            **os.environ,
            **revision.environment,
            "PREPARED_TOP_K": str(top_k),
            "PREPARED_CUSTOMERS": "" if customers is None else str(customers),
            "MINIMUM_RECALL": "0.95",
            "CLOUD_RUN_JOB": f"prepare-{MODEL_ID}",
            "CLOUD_RUN_EXECUTION": f"prepare-{MODEL_ID}-1",
            "CLOUD_RUN_TASK_INDEX": "0",
            "CLOUD_RUN_TASK_ATTEMPT": "0",
            "CLOUD_RUN_TASK_COUNT": "1",
        }
        command = [sys.executable, "-m", "serving", "prepare"]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        verdict_name = f"{revision.prefix}prepared/task-00000-of-00001.json"
        blob = self._bucket.get_blob(verdict_name)
        if done.returncode or blob is None:
            raise NotPrepared(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        verdict = json.loads(blob.download_as_bytes())
        manifest = {
            "schema_version": 1,
            "model_digest": revision.environment["MODEL_DIGEST"],
            **{name: verdict[name] for name in ("top_k", "customers", "products", "recall")},
            "tasks": 1,
            "files": sorted(verdict["files"], key=lambda file: str(file["path"])),
        }
        manifest["digest"] = digest_of(manifest["files"])
        self._write(f"{revision.prefix}prepared/{MANIFEST}", manifest)
        return replace(
            revision, environment={**revision.environment, "PREPARED_DIGEST": manifest["digest"]}
        )

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        self._bucket.blob(name).upload_from_string(
            json.dumps(content), content_type="application/json"
        )


@contextmanager
def running_services(folder: Path) -> Iterator[Cloud]:
    """Run Storage and Firestore on threads of this process; Google's clients here find them."""
    files, documents = Storage(folder / "storage"), Firestore(folder / "firestore")
    files.start()
    documents.start()
    server = grpc.server(ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers(tuple(documents.grpc_handlers()))
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    try:
        with _listening(files.app()) as address:
            environment = {
                "GOOGLE_CLOUD_PROJECT": PROJECT,
                "TURNOUT_PROJECT": PROJECT,
                "FIRESTORE_EMULATOR_HOST": f"{HOST}:{port}",
                "STORAGE_EMULATOR_HOST": f"http://{address}",
            }
            os.environ.update(environment)
            yield Cloud(environment)
    finally:
        server.stop(grace=1).wait()
        documents.stop()
        files.stop()


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server((HOST, 0)) as bound:
        return int(bound.getsockname()[1])


def _file(path: str, blob: Any) -> dict[str, Any]:
    return {
        "path": path,
        "size": int(blob.size),
        "crc32c": blob.crc32c,
        "generation": int(blob.generation),
    }


@contextmanager
def _listening(app: web.Application) -> Iterator[str]:
    bound = socket.create_server((HOST, 0))
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)

    async def begin() -> None:
        await runner.setup()
        await web.SockSite(runner, bound).start()

    thread = threading.Thread(target=loop.run_forever, name="storage", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(begin(), loop).result(30)
        yield f"{HOST}:{bound.getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
