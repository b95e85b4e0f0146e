"""A model is a program: what it may hold, and that it is the one that was copied."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from functions.copy_artifacts import MANIFEST, copy
from serving.artifacts import ManifestFile, digest_of, fetch_artifact
from serving.errors import ArtifactMismatch, ArtifactUnavailable, ModelContractError
from serving.graph_ops import check_graph
from serving.settings import Artifact, Settings, read_settings
from shared.errors import ArtifactsRefused
from shared.messages import CopyArtifacts
from tests import models
from tests.fakes import World
from tests.unit.stepping import execution_of, new_world, publish, step

NAME, PREFIX = "movies-1-auto", "models/movies/v1/"


def tensorflow() -> Any:
    import tensorflow as tf

    return tf


def saved(folder: Path, body: Callable[[Any, Any], Any]) -> Path:
    """Save a model whose `query_model` is `body(tf, names)`; return its folder."""
    tf = tensorflow()
    module = tf.Module()
    module.weights = tf.Variable(1.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def query_model(names: Any) -> Any:
        return body(tf, names)

    module.query_model = query_model
    tf.saved_model.save(module, str(folder / "saved_model"))
    return folder / "saved_model"


def _written(tf: Any, names: Any) -> Any:
    tf.io.write_file("/tmp/of-the-model", names[0])
    return names


def _printed(tf: Any, names: Any) -> Any:
    tf.print(names, output_stream="file:///tmp/of-the-model")
    return names


def _called(tf: Any, names: Any) -> Any:
    return tf.numpy_function(lambda found: found, [names], tf.string)


def _checkpointed(tf: Any, names: Any) -> Any:
    tf.raw_ops.SaveV2(
        prefix=names[0], tensor_names=["x"], shape_and_slices=[""], tensors=[tf.constant(1.0)]
    )
    return names


def _in_a_branch(tf: Any, names: Any) -> Any:
    return tf.cond(
        tf.equal(names[0], "now"), lambda: tf.io.read_file(names[0]), lambda: tf.constant("")
    )


def _dataset(tf: Any, names: Any) -> Any:
    return tf.data.TextLineDataset(names).reduce(tf.constant(""), lambda _, line: line)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        pytest.param(lambda tf, names: tf.io.read_file(names[0]), "ReadFile", id="reads"),
        pytest.param(_written, "WriteFile", id="writes"),
        pytest.param(lambda tf, names: tf.io.matching_files(names), "MatchingFiles", id="looks"),
        pytest.param(_printed, "PrintV2", id="prints, into a file"),
        pytest.param(_called, "PyFunc", id="calls Python"),
        pytest.param(_checkpointed, "SaveV2", id="writes a checkpoint of its own"),
        pytest.param(_in_a_branch, "ReadFile", id="in a branch"),
        pytest.param(_dataset, "TextLineDataset", id="a dataset"),
    ],
)
def test_graph_that_reaches_beyond_itself_is_refused_by_name(
    tmp_path: Path, body: Callable[[Any, Any], Any], named: str
) -> None:
    found = saved(tmp_path, body)
    with pytest.raises(ModelContractError, match=rf"\b{named} in .*MODEL_EXTRA_OPS"):
        check_graph(tensorflow(), found)


def test_operation_that_the_declaration_names_is_taken_and_no_other(tmp_path: Path) -> None:
    models.write_holding(tmp_path)
    found, tf = tmp_path / "saved_model", tensorflow()
    check_graph(tf, found, models.WAITING_OPS.split(","))
    with pytest.raises(ModelContractError, match="WriteFile") as refusal:
        check_graph(tf, found, ["MatchingFiles"])
    assert "MatchingFiles" not in str(refusal.value)


def test_declaration_names_operations_in_the_models_environment() -> None:
    assert read_settings({"MODEL_EXTRA_OPS": "ReadFile,WriteFile"}).extra_ops == {
        "ReadFile",
        "WriteFile",
    }
    assert read_settings({}).extra_ops == frozenset()


@pytest.mark.parametrize(
    "write",
    [
        models.write_good,
        models.write_without_extras,
        models.write_only_serving_default,
        models.write_biased_index,
        models.write_nan_for_one_customer,
    ],
)
def test_model_that_computes_is_taken(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path)
    check_graph(tensorflow(), tmp_path / "saved_model")


def test_vocabulary_in_a_file_of_the_models_own_is_taken(tmp_path: Path) -> None:
    found = with_vocabulary(tmp_path)
    check_graph(tensorflow(), found)


@pytest.mark.parametrize(
    "filename", ["/proc/self/environ", "../../secret", "gs://other/secret", "a/../../b"]
)
def test_asset_outside_of_the_models_folder_is_refused(tmp_path: Path, filename: str) -> None:
    found = with_vocabulary(tmp_path)

    def lead_out(graph: Any) -> None:
        graph.asset_file_def[0].filename = filename

    rewrite(found, lead_out)
    with pytest.raises(ModelContractError, match="outside of its folder"):
        check_graph(tensorflow(), found)


def _also_the_question(graph: Any) -> None:
    graph.object_graph_def.concrete_functions[saver_of(graph)].SetInParent()


def _also_called(graph: Any) -> None:
    function = graph.graph_def.library.function[0]
    node = function.node_def.add(name="again", op="PartitionedCall")
    node.attr["f"].func.name = saver_of(graph)


def _also_an_output(graph: Any) -> None:
    graph.signature_def["serving_default"].outputs["x"].name = graph.saver_def.save_tensor_name


def saver_of(graph: Any) -> str:
    """Return the function that writes the model's checkpoint."""
    return next(
        str(function.signature.name)
        for function in graph.graph_def.library.function
        if any(node.op == "SaveV2" for node in function.node_def)
    )


@pytest.mark.parametrize("change", [_also_the_question, _also_called, _also_an_output])
def test_saver_is_taken_only_where_nothing_but_the_saver_calls_it(
    tmp_path: Path, change: Callable[[Any], None]
) -> None:
    models.write_good(tmp_path)
    found, tf = tmp_path / "saved_model", tensorflow()
    check_graph(tf, found)
    rewrite(found, change)
    with pytest.raises(ModelContractError, match="SaveV2"):
        check_graph(tf, found)


def test_operation_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    models.write_good(tmp_path)
    found = tmp_path / "saved_model"
    rewrite(found, lambda graph: graph.graph_def.node.add(name="odd", op="OddOp"))
    with pytest.raises(ModelContractError, match="OddOp"):
        check_graph(tensorflow(), found)


def test_every_operation_of_tensorflow_that_names_a_file_or_an_address_is_refused() -> None:
    """Names say what they are for: an operation that a new TensorFlow brings shows up here."""
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session as native

    from serving.graph_ops import _REFUSED, _TAKEN

    known = op_def_pb2.OpList()
    known.ParseFromString(native.TF_GetBuffer(native.TF_GetAllOpList()))
    reaching = {
        "filename",
        "filenames",
        "file_pattern",
        "path",
        "address",
        "server_address",
        "debug_urls",
        "vocab_file",
        "new_vocab_file",
        "descriptor_source",
        "directory",
        "checkpoint_prefixes",
        "ckpt_path",
        "output_stream",
        "pattern_file",
    }
    # A vocabulary is part of a model; where it may lie is checked apart.
    let_in = {"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"}
    for op in known.op:
        names = {part.name for part in (*op.input_arg, *op.attr)}
        if names & reaching and op.name not in let_in:
            refused = _REFUSED.fullmatch(op.name) or (
                op.is_stateful and not _TAKEN.fullmatch(op.name)
            )
            assert refused, f"{op.name} takes {names & reaching}"


# The same bytes as were copied


class Objects:
    """A bucket's folder: each object with its generation, and those that were there before."""

    def __init__(self) -> None:
        self.newest: dict[str, tuple[int, bytes]] = {}
        self.kept: dict[tuple[str, int], bytes] = {}
        self._generation = 1_000

    def put(self, name: str, content: bytes) -> dict[str, Any]:
        """Write an object over the one before, which is gone; return it as a manifest has it."""
        self._generation += 1
        if name in self.newest:
            self.kept.pop((name, self.newest[name][0]))
        self.newest[name] = (self._generation, content)
        self.kept[name, self._generation] = content
        crc32c = base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()
        return {
            "path": name,
            "size": len(content),
            "crc32c": crc32c,
            "generation": self._generation,
        }

    def read(self, path: str) -> bytes:
        return self.newest[path][1]

    def fetch(self, path: str, generation: int, target: Path) -> None:
        try:
            target.write_bytes(self.kept[path, generation])
        except KeyError:
            raise ArtifactUnavailable(f"{path} does not exist in {generation}") from None

    def manifest(self, files: list[dict[str, Any]]) -> str:
        """Write the manifest of these files; return its digest."""
        digest = digest_of(ManifestFile(**file) for file in files)
        content = {
            "schema_version": 1,
            "model_id": "movies",
            "version": 1,
            "training_run": 1,
            "source": "gs://training/run-1",
            "files": files,
            "digest": digest,
        }
        self.put("manifest.json", json.dumps(content).encode())
        return digest


def settings(digest: str) -> Settings:
    artifact = Artifact("serving", PREFIX, digest)
    return Settings("movies", "v1", 1, artifact, "127.0.0.1", 8080, None)


def same_crc32c(content: bytes, wanted: int) -> bytes:
    """Return the content with four bytes at its end, so that its crc32c is `wanted`.

    A crc is linear: the sum of the bits that each single bit of the end flips.
    """
    plain = google_crc32c.value(content + bytes(4))
    columns = [
        google_crc32c.value(content + (1 << bit).to_bytes(4, "big")) ^ plain for bit in range(32)
    ]
    rows = [(column, 1 << bit) for bit, column in enumerate(columns)]
    goal, end = wanted ^ plain, 0
    for bit in reversed(range(32)):
        pivot = next((row for row in rows if row[0] >> bit & 1), None)
        if pivot is None:
            continue
        rows = [(a ^ pivot[0], b ^ pivot[1]) if a >> bit & 1 else (a, b) for a, b in rows]
        if goal >> bit & 1:
            goal, end = goal ^ pivot[0], end ^ pivot[1]
    return content + end.to_bytes(4, "big")


def test_object_swapped_after_the_copy_is_refused_also_with_the_same_size_and_crc32c(
    tmp_path: Path,
) -> None:
    objects = Objects()
    good, evil = b"the model that was tested", b"an evil one of its s"
    files = [objects.put("saved_model/saved_model.pb", good)]
    digest = objects.manifest(files)
    fetch_artifact(settings(digest), objects, tmp_path / "first")

    forged = same_crc32c(evil + b"\0", google_crc32c.value(good))
    assert (len(forged), google_crc32c.value(forged)) == (len(good), google_crc32c.value(good))
    swapped = objects.put("saved_model/saved_model.pb", forged)
    with pytest.raises(ArtifactUnavailable):
        fetch_artifact(settings(digest), objects, tmp_path / "second")

    # Whoever can write there can write the manifest, too: the revision's digest still holds.
    assert objects.manifest([swapped]) != digest
    with pytest.raises(ArtifactMismatch, match="digest"):
        fetch_artifact(settings(digest), objects, tmp_path / "third")
    assert not list(tmp_path.glob("third/**/*.pb"))


def test_object_swapped_between_two_tries_of_the_copy_is_refused() -> None:
    world = new_world()
    publish(world)
    step(world, "claim", NAME)
    step(world, "copy", NAME)
    world.objects.put("serving", PREFIX + "saved_model/saved_model.pb", b"another's")
    with pytest.raises(ArtifactsRefused):
        step(world, "copy", NAME)


@pytest.mark.parametrize(
    "name",
    [
        "../v9/saved_model/saved_model.pb",
        "saved_model/../../x",
        "saved_model//x",
        "./x",
        "a\\..\\x",
        "a\tb",
        "a\u202eb",
        "a\x1b[2Jb",
    ],
)
def test_file_name_that_leads_elsewhere_is_refused_before_anything_is_copied(name: str) -> None:
    world: World = new_world()
    publish(world)
    step(world, "claim", NAME)
    world.objects.put("training", f"run-1/{name}", b"x")
    with pytest.raises(ArtifactsRefused, match="no plain path"):
        copy(CopyArtifacts(deployment_id=NAME, execution=execution_of(world, NAME)), world.ports())
    assert world.objects.list("serving", "") == []
    assert world.objects.read("serving", PREFIX + MANIFEST) is None


def with_vocabulary(folder: Path) -> Path:
    """Save a model that looks names up in a file of its own; return its folder."""
    tf = tensorflow()
    (folder / "names.txt").write_text("C000\nC001\n")
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(folder / "names.txt"),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        -1,
    )
    names = [tf.TensorSpec([None], tf.string)]
    module.row = tf.function(lambda found: module.table.lookup(found), input_signature=names)
    tf.saved_model.save(module, str(folder / "saved_model"))
    return folder / "saved_model"


def rewrite(saved_model: Path, change: Callable[[Any], object]) -> None:
    """Change the first graph of a SavedModel as somebody with an editor may."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = saved_model / "saved_model.pb"
    parsed = saved_model_pb2.SavedModel()
    parsed.ParseFromString(path.read_bytes())
    change(parsed.meta_graphs[0])
    path.write_bytes(parsed.SerializeToString())
