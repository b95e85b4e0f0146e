"""From an artifact in storage to a model that answers: download, load, warm up."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.artifacts import ArtifactSource, fetch_artifact
from serving.errors import ModelContractError
from serving.recommender import Recommender
from serving.settings import Settings
from serving.timings import Timings

if TYPE_CHECKING:
    from serving.retrieval import ExactRetrieval, Retrieval

CUSTOMERS = "customers.txt"


def load_model(
    settings: Settings,
    source: ArtifactSource,
    folder: Path,
    cpus: int,
    timings: Timings,
    index: Path | None = None,
) -> Recommender:
    """Return the version's model, verified and warm; raises LoadError.

    The files are downloaded into `folder`, where none of them is needed afterwards. `index` is
    the approximate index of its candidates, which must stay.
    """
    from serving.warm_up import sample, warm_up

    # The import takes seconds of CPU and the download seconds of network: at the same time. A
    # download that fails does not wait for the import; the process ends with it.
    imported = ThreadPoolExecutor(1).submit(
        timings.measure, "import", lambda: _import_tensorflow(cpus)
    )
    timings.measure("download", lambda: fetch_artifact(settings, source, folder))
    tf = imported.result()

    from serving.graph_ops import check_graph
    from serving.predictor import SAVED_MODEL, load_recommender

    timings.measure("check", lambda: check_graph(tf, folder / SAVED_MODEL, settings.extra_ops))
    customers = read_customers(folder)
    known = None if customers is None else frozenset(customers)
    model: Recommender = timings.measure(
        "load",
        lambda: load_recommender(
            tf, folder, known, sample(customers or []), cpus, _search(index, cpus)
        ),
    )
    timings.measure("warm_up", lambda: warm_up(model, customers or []))
    # TensorFlow leaves 300,000 objects, which every full collection would walk: some 200 ms in
    # the middle of a request. They stay for good, so they are taken out of its sight.
    gc.collect()
    gc.freeze()
    gc.enable()
    return model


def _search(index: Path | None, cpus: int) -> Callable[[ExactRetrieval], Retrieval]:
    """Return how the model's candidates are searched."""
    if index is None:
        return lambda exact: exact
    from serving import approximate

    loaded = approximate.load(index, cpus)
    return lambda exact: approximate.ApproximateRetrieval(loaded, exact)


def _import_tensorflow(cpus: int) -> Any:
    # Read by TensorFlow's native part when it is imported: no GPU to look for, no news on stderr.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    from serving.predictor import use_cpus

    use_cpus(tf, cpus)
    return tf


def read_customers(folder: Path) -> list[str] | None:
    """Return the known customers, one id a line, or None where the artifact has no list."""
    path = folder / CUSTOMERS
    if not path.exists():
        return None
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ModelContractError(f"{path.name} is not UTF-8: {error}") from error
    return [line for line in text.split("\n") if line]
