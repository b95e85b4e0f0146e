"""The record of calls: whose a call is, also from a thread; what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from localcloud import calls
from localcloud.calls import Call, Calls
from tests.e2e.world import ROOT

# A gRPC service and a Cloud Storage that only say which caller they were told.
STAMPED = """
import json, os, threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import requests

from localcloud.calls import CALLER
from localcloud.functions.stamps import at_work, stamp_calls


def told(_, context):
    return dict(context.invocation_metadata()).get(CALLER, "").encode()


class Objects(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.headers.get(CALLER, "").encode())

    def log_message(self, *_):
        pass


def serve():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Objects)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


stamp_calls()
service = grpc.server(ThreadPoolExecutor(4))
service.add_generic_rpc_handlers(
    [grpc.method_handlers_generic_handler("a.B", {"C": grpc.unary_unary_rpc_method_handler(told)})]
)
address = f"127.0.0.1:{service.add_insecure_port('127.0.0.1:0')}"
service.start()
# The channel is everybody's, as the product's clients are.
method = grpc.insecure_channel(address).unary_unary("/a.B/C")
os.environ["STORAGE_EMULATOR_HOST"], elsewhere = serve(), serve()


def ask():
    stored = requests.get(os.environ["STORAGE_EMULATOR_HOST"]).text
    return method(b"").decode(), stored, requests.get(elsewhere).text


def from_pool():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result()


def work(function, found):
    at_work.set(function)
    found[f"{function}, itself"] = ask()
    found[f"{function}, in a pool"] = from_pool()
    with ThreadPoolExecutor(1) as pool:
        found[f"{function}, in a pool's pool"] = pool.submit(from_pool).result()


found = {"nobody": ask()}
threads = [threading.Thread(target=work, args=(name, found)) for name in ("one", "other")]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(found))
"""
NOTING = """
import sys, time
from pathlib import Path
from localcloud.calls import Calls
counted = Calls(Path(sys.argv[1]))
counted.note("copy_artifacts", "storage.objects.list", "b/")
print("noted", flush=True)
time.sleep(600)
"""


def python(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_call_names_the_function_that_makes_it_from_any_thread_and_tells_nobody_else() -> None:
    done, _ = python(STAMPED).communicate(timeout=120)
    found = json.loads(done)
    assert found.pop("nobody") == ["no function", "no function", ""]
    assert len(found) == 6
    for name, (by_grpc, by_http, elsewhere) in found.items():
        function = name.partition(",")[0]
        assert (by_grpc, by_http, elsewhere) == (function, function, ""), name


def test_new_call_outlives_a_kill_and_several_processes_count_together(tmp_path: Path) -> None:
    with closing(Calls(tmp_path)) as ours:
        processes = [python(NOTING, str(tmp_path)) for _ in range(2)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "noted\n"
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=30)
        for _ in range(3):
            ours.note("copy_artifacts", "storage.objects.list", "b/")
        ours.note("copy_artifacts", "storage.objects.list", "c/")
        # Read by another one, while it is open here.
        first, second = (Call("copy_artifacts", "storage.objects.list", b) for b in ("b/", "c/"))
        assert set(calls.read(tmp_path)) == {first, second}
    assert calls.read(tmp_path) == {first: 5, second: 1}


def test_folder_without_a_local_cloud_has_no_calls(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        calls.read(tmp_path)
    assert list(tmp_path.iterdir()) == []
