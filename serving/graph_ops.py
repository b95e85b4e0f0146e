"""What a model's graph may do: compute. A SavedModel is a program, and this is read before it runs.

TensorFlow's operations also write and read files, also gs:// with the container's own rights, talk
to other machines and print. A recommendation needs none of it. Operations without side effects are
taken, but for the few that read files; of those with side effects only the ones listed here:
variables, lookup tables, control flow and random numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from serving.errors import ModelContractError

_TAKEN = re.compile(
    r"""
    (Resource(Gather|Scatter|Apply|SparseApply|StridedSlice)\w* | VarHandleOp | VariableShape
    | VarIsInitializedOp | ReadVariableOp | Assign(Add|Sub)?VariableOp | DestroyResourceOp
    | DisableCopyOnRead | VariableV2
    | (Anonymous)?(Mutable)?(Dense)?HashTable(OfTensors)?(V2)? | LookupTable\w+
    | InitializeTable(FromTextFile)?V2
    | StatefulPartitionedCall | If | While | Case | Assert | CheckNumerics(V2)? | Empty
    | GuaranteeConst | TensorArray\w+ | Stack(Push|Pop|Close)?V2 | XlaCallModule
    | Random(Uniform(Int)?|StandardNormal|Shuffle|Gamma|Poisson(V2)?|Crop)
    | Stateful(Uniform|Standard|Truncated|Random)\w*
    | TruncatedNormal | ParameterizedTruncatedNormal | Multinomial | NonDeterministicInts
    | StatelessRandomGetAlg | Rng(ReadAnd)?Skip | Timestamp
    | (LogUniform|Uniform|LearnedUnigram)CandidateSampler)
    """,
    re.VERBOSE,
)
# Without side effects as TensorFlow declares them, and yet they reach files or other programs.
_REFUSED = re.compile(
    r"ReadFile|MatchingFiles|GenerateVocabRemapping|DecodeProtoV2|EncodeProto|PyFuncStateless"
    r"|Debug\w+|\w*Dataset\w*|\w*Iterator\w*|Reader\w+"
)
# What tf.saved_model.save leaves for whoever trains on; loading a model does not run it.
_CHECKPOINT = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints"})
_NAMED_AT_MOST = 5


def check_graph(tf: Any, saved_model: Path, extra: Collection[str] = ()) -> None:
    """Raise ModelContractError where the model holds an operation that is not taken.

    `extra` names operations that are taken as well. What cannot be parsed is left to the loader,
    which parses it by the same function.
    """
    try:
        parsed = tf.__internal__.saved_model.parse_saved_model(str(saved_model))
    except (OSError, ValueError):
        return
    for graph in parsed.meta_graphs:
        _check_assets(graph)
        if refused := {op: where for op, where in _refused(graph) if op not in extra}:
            named = ", ".join(f"{op} in {refused[op]!r}" for op in sorted(refused)[:_NAMED_AT_MOST])
            raise ModelContractError(
                f"the model's graph does more than compute: {named}; export it without, or name "
                "what it really needs in the model's env, MODEL_EXTRA_OPS, separated by commas"
            )


def _check_assets(graph: Any) -> None:
    """Raise ModelContractError where an asset lies outside of the model's own folder."""
    for asset in graph.asset_file_def:
        path = PurePosixPath(asset.filename)
        if path.is_absolute() or ".." in path.parts or ":" in asset.filename:
            raise ModelContractError(
                f"the model's asset {asset.filename!r} lies outside of its folder"
            )


def _refused(graph: Any) -> Iterator[tuple[str, str]]:
    """Give each operation that is not taken, with the function that holds it."""
    from tensorflow.python.framework import op_def_registry

    functions = {function.signature.name for function in graph.graph_def.library.function}
    savers = _savers(graph)
    for where, nodes in _bodies(graph):
        for node in nodes:
            if node.op in functions or (where in savers and node.op in _CHECKPOINT):
                continue
            known = op_def_registry.get(node.op)
            if (
                known is None
                or _REFUSED.fullmatch(node.op)
                or (known.is_stateful and not _TAKEN.fullmatch(node.op))
            ):
                yield node.op, where


def _savers(graph: Any) -> set[str]:
    """Return the functions that only the graph's saver calls, which serving never runs."""
    ends = {graph.saver_def.save_tensor_name, graph.saver_def.restore_op_name}
    ends = {name.partition(":")[0] for name in ends}
    called: Counter[str] = Counter(list(graph.object_graph_def.concrete_functions))
    by_saver: Counter[str] = Counter()
    for where, nodes in _bodies(graph):
        for node in nodes:
            names = _calls(node)
            called.update(names)
            if where == "" and node.name in ends:
                by_saver.update(names)
    outputs = {
        tensor.name.partition(":")[0]
        for signature in graph.signature_def.values()
        for tensor in signature.outputs.values()
    }
    return set() if ends & outputs else {name for name in by_saver if called[name] == 1}


def _calls(node: Any) -> list[str]:
    """Return the names of the functions that a node refers to."""
    return [node.op] + [
        function.name
        for value in node.attr.values()
        for function in (value.func, *value.list.func)
        if function.name
    ]


def _bodies(graph: Any) -> Iterator[tuple[str, Any]]:
    """Give the nodes of the graph itself ("") and of each function, by its name."""
    yield "", graph.graph_def.node
    for function in graph.graph_def.library.function:
        yield function.signature.name, function.node_def
