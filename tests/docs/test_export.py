"""docs/how-to/export-a-model.md: what its example leaves is what the container serves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT, fences

LOADS = """
import json
from serving.graph_ops import check_graph
from serving.loading import read_customers
from serving.predictor import load_recommender

check_graph(tf, folder / "saved_model")
served = load_recommender(tf, folder, frozenset(read_customers(folder)), CUSTOMERS[:10])
answer = served.answer(["C17", "a stranger"], 5)
print(json.dumps([served.kind, served.products, answer.known.tolist(), answer.scores.shape]))
"""


def test_example_exports_what_the_container_serves(tmp_path: Path) -> None:
    page = ROOT / "docs/how-to/export-a-model.md"
    [example] = [one.body for one in fences(page) if one.kind == "export"]
    done = subprocess.run(
        [sys.executable, "-c", example + LOADS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == '["exact", 1000, [true, false], [2, 5]]'
