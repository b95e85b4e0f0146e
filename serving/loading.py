"""From an artifact in storage to a model that answers: download, load, warm up."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.artifacts import ArtifactSource, fetch_artifact
from serving.errors import ModelContractError
from serving.recommender import Recommender
from serving.settings import Settings

CUSTOMERS = "customers.txt"


@dataclass
class Timings:
    """How long each part of loading took, in milliseconds."""

    parts: dict[str, int] = field(default_factory=dict)

    def measure(self, part: str, work: Callable[[], Any]) -> Any:
        """Run `work` and note its time as `<part>_ms`; returns its result."""
        started = time.monotonic()
        result = work()
        self.parts[f"{part}_ms"] = round((time.monotonic() - started) * 1000)
        return result


def load_model(
    settings: Settings,
    open_source: Callable[[], ArtifactSource],
    folder: Path,
    cpus: int,
    timings: Timings,
) -> Recommender:
    """Return the version's model, verified and warm; raises LoadError.

    `folder` is empty, and may be deleted afterwards.
    """
    from serving.warm_up import warm_up

    # The import takes seconds of CPU and the download seconds of network: at the same time. A
    # download that fails does not wait for the import; the process ends with it.
    imported = ThreadPoolExecutor(1).submit(
        timings.measure, "import", lambda: _import_tensorflow(cpus)
    )
    timings.measure("download", lambda: fetch_artifact(settings, open_source(), folder))
    tf = imported.result()

    from serving.predictor import load_recommender

    customers = _read_customers(folder / CUSTOMERS)
    known = None if customers is None else frozenset(customers)
    model: Recommender = timings.measure("load", lambda: load_recommender(tf, folder, known))
    timings.measure("warm_up", lambda: warm_up(model, customers or []))
    # TensorFlow leaves 300,000 objects, which every full collection would walk: some 200 ms in
    # the middle of a request. They stay for good, so they are taken out of its sight.
    gc.collect()
    gc.freeze()
    return model


def _import_tensorflow(cpus: int) -> Any:
    # Read by TensorFlow's native part when it is imported: no GPU to look for, no news on stderr.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    from serving.predictor import use_cpus

    use_cpus(tf, cpus)
    return tf


def _read_customers(path: Path) -> list[str] | None:
    """Return the known customers, one id a line, or None where the artifact has no list."""
    if not path.exists():
        return None
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ModelContractError(f"{path.name} is not UTF-8: {error}") from error
    return [line for line in text.split("\n") if line]
