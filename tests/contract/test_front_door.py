"""The front door and the instances behind it: real listeners, real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from tests.contract.run_world import (
    NAME,
    PARENT,
    SERVICE,
    World,
    answer,
    done,
    is_running,
    served,
    tag_url,
    template,
    to,
    until,
    world,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("door"), idle_timeout_s=0.3, pending_timeout_s=3) as made:
        yield made


@pytest.fixture
def cloud(shared: World) -> Iterator[World]:
    yield shared
    for service in shared.services.list_services(parent=PARENT):
        done(shared.services.delete_service(name=service.name))


def test_every_tag_is_an_origin_of_its_own_that_closes_with_its_tag(cloud: World) -> None:
    cloud.create("v1")
    cloud.deploy("v2")
    service = cloud.split(to("v1", 100, "ver-1"), to("v2", 0, "ver-2"))

    one, two = tag_url(service, "ver-1"), tag_url(service, "ver-2")
    assert len({service.uri, one, two}) == 3
    assert [answer(url)["revision"] for url in (service.uri, one, two)] == [
        f"{SERVICE}-v1",
        f"{SERVICE}-v1",
        f"{SERVICE}-v2",
    ]

    moved = cloud.split(to("v1", 100), to("v1", 0, "ver-2"))
    assert tag_url(moved, "ver-2") == two
    assert answer(two)["revision"] == f"{SERVICE}-v1"
    with pytest.raises(OSError, match="refused"):
        answer(one)


def test_requests_during_fifty_traffic_changes_never_fail_and_keep_the_split(
    cloud: World,
) -> None:
    cloud.create("v1")
    cloud.deploy("v2")
    url = cloud.split(to("v1", 100, "ver-1"), to("v2", 0, "ver-2")).uri
    stop = threading.Event()
    seen: list[str] = []

    def hammer(n: int) -> None:
        with requests.Session() as session:
            while not stop.is_set():
                response = session.post(url, data=b"x" * 1000) if n % 2 else session.get(url)
                seen.append(response.json()["revision"] if response.ok else response.text)

    with ThreadPoolExecutor(2) as pool:
        hammers = [pool.submit(hammer, n) for n in range(2)]
        try:
            for n in range(50):
                percent = (100, 0, 50, 10, 90)[n % 5]
                cloud.split(to("v1", percent, "ver-1"), to("v2", 100 - percent, "ver-2"))
                enough = len(seen) + 8
                until(lambda enough=enough: len(seen) >= enough, "requests under this split")
        finally:
            stop.set()
        for done_hammer in hammers:
            done_hammer.result()

    assert set(seen) == {f"{SERVICE}-v1", f"{SERVICE}-v2"}

    cloud.split(to("v1", 90), to("v2", 10))
    with requests.Session() as session:
        shares = Counter(session.get(url).json()["revision"] for _ in range(600))
    # Five standard deviations around 60 of 600.
    assert 23 <= shares[f"{SERVICE}-v2"] <= 97


def test_revision_that_lost_its_traffic_finishes_its_requests_and_ends(cloud: World) -> None:
    url = cloud.create("v1").uri
    old = answer(url)["pid"]
    cloud.deploy("v2")

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(answer, f"{url}/sleep?1")
        until(lambda: "sleeping" in cloud.log("v1"), "the slow request to be in flight")
        cloud.split(to("v2", 100))
        assert answer(url)["revision"] == f"{SERVICE}-v2"
        assert is_running(old)
        assert slow.result()["revision"] == f"{SERVICE}-v1"

    until(lambda: not is_running(old), "the old instance to end")


def test_idle_tagged_revision_scales_to_zero_and_starts_again_on_a_request(cloud: World) -> None:
    cloud.create("v1")
    cloud.deploy("v2", env={"START_S": "0.3"})
    service = cloud.split(to("v1", 100), to("v2", 0, "ver-2"))
    url = tag_url(service, "ver-2")
    first = answer(url)["pid"]

    until(lambda: not is_running(first), "the idle instance to end")
    with ThreadPoolExecutor(5) as pool:
        pids = {a["pid"] for a in pool.map(answer, [url] * 5)}

    assert len(pids) == 1
    assert pids != {first}
    assert is_running(answer(service.uri)["pid"])


def test_minimum_instances_keep_a_tagged_revision_warm(cloud: World) -> None:
    cloud.create("v1")
    cloud.deploy("v2", scaling={"min_instance_count": 1})
    cloud.deploy("v3")
    service = cloud.split(to("v1", 100), to("v2", 0, "ver-2"), to("v3", 0, "ver-3"))
    warm = answer(tag_url(service, "ver-2"))["pid"]
    idle = answer(tag_url(service, "ver-3"))["pid"]

    until(lambda: not is_running(idle), "the instance without a minimum to end")
    assert answer(tag_url(service, "ver-2"))["pid"] == warm


def test_crashed_instance_is_replaced_and_requests_wait_for_the_new_one(cloud: World) -> None:
    url = cloud.create(template=template("v1", env={"START_S": "0.2"})).uri
    first = answer(url)["pid"]

    broken = requests.get(f"{url}/crash", timeout=20)

    assert broken.status_code == 503
    assert broken.headers["Content-Type"].startswith("application/problem+json")
    assert broken.json()["code"] == "connection_to_instance_failed"
    second = answer(url)["pid"]
    assert second != first


def test_request_refused_by_a_deaf_instance_is_sent_to_a_fresh_one(cloud: World) -> None:
    url = cloud.create("v1").uri
    deaf = answer(f"{url}/deaf")["pid"]

    response = requests.post(url, data=iter([b"abc", b"defg"]), timeout=20)

    assert response.json() == {"revision": f"{SERVICE}-v1", "bytes": 7}
    assert answer(url)["pid"] != deaf
    until(lambda: not is_running(deaf), "the deaf instance to end")


def test_replaced_instance_ends_and_requests_wait_for_the_next_one(cloud: World) -> None:
    url = cloud.create(template=template("v1", env={"START_S": "0.2"})).uri
    first = answer(url)["pid"]

    cloud.cloud_run.replace_instance(SERVICE, f"{SERVICE}-v1")

    assert answer(url)["pid"] != first
    until(lambda: not is_running(first), "the replaced instance to end")


def test_instance_that_never_comes_up_again_costs_a_503_within_the_limit(cloud: World) -> None:
    marker = cloud.folder / "started-once"
    marker.unlink(missing_ok=True)
    once = (
        "import os, pathlib, sys\n"
        f"marker = pathlib.Path({str(marker)!r})\n"
        "if marker.exists(): sys.exit('only once')\n"
        "marker.touch()\n"
        f"exec(open({str(cloud.folder / 'server.py')!r}).read())\n"
    )
    command = {"command": [sys.executable, "-c", once]}
    url = cloud.create(template=template("v1", container=command)).uri

    crash = requests.get(f"{url}/crash", timeout=20)
    assert crash.json()["code"] == "connection_to_instance_failed"
    response = requests.get(url, timeout=20)

    assert (response.status_code, response.json()["code"]) == (503, "no_instance")


def test_requests_beyond_the_concurrency_wait_their_turn(cloud: World) -> None:
    url = cloud.create(template=template("v1", max_instance_request_concurrency=2)).uri

    with ThreadPoolExecutor(6) as pool:
        began = time.monotonic()
        assert len(list(pool.map(answer, [f"{url}/sleep?0.2"] * 6))) == 6
        took_s = time.monotonic() - began

    assert took_s >= 0.6


def test_request_beyond_the_revisions_timeout_is_answered_504(cloud: World) -> None:
    url = cloud.create(template=template("v1", timeout={"seconds": 1})).uri

    response = requests.get(f"{url}/sleep?3", timeout=20)

    assert (response.status_code, response.json()["code"]) == (504, "request_timeout")


def test_instance_that_exceeds_its_memory_limit_is_killed(cloud: World) -> None:
    hungry = (
        f"block = bytearray(120 * 2**20)\nexec(open({str(cloud.folder / 'server.py')!r}).read())\n"
    )
    container = {
        "command": [sys.executable, "-c", hungry],
        "resources": {"limits": {"memory": "64Mi"}},
    }
    pid = answer(cloud.create(template=template("v1", container=container)).uri)["pid"]

    until(lambda: not is_running(pid), "the instance to be killed")


def test_front_door_passes_requests_and_answers_through_unchanged(cloud: World) -> None:
    url = cloud.create("v1").uri

    seen = requests.get(
        f"{url}/a%2Fb?q=%C5%82&r=1",
        headers={"Authorization": "Bearer key", "X-Forwarded-For": "10.0.0.1", "X-Own": "1"},
        timeout=20,
    ).json()
    assert seen["path"] == "/a%2Fb?q=%C5%82&r=1"
    headers = seen["headers"]
    assert headers["authorization"] == "Bearer key"
    assert headers["x-forwarded-for"] == "10.0.0.1, 127.0.0.1"
    assert headers["host"] == url.removeprefix("http://")
    assert headers["x-own"] == "1"
    assert headers["traceparent"].startswith("00-")

    body = os.urandom(3_000_000)
    assert requests.post(url, data=body, timeout=20).json()["bytes"] == len(body)
    assert requests.post(url, data=iter([body[:9], body[9:]]), timeout=20).json()["bytes"] == len(
        body
    )
    assert requests.get(f"{url}/chunks", timeout=20).text == "chunk0chunk1chunk2"
    assert requests.head(url, timeout=20).headers["Content-Length"] != "0"
    moved = requests.get(f"{url}/redirect", allow_redirects=False, timeout=20)
    assert (moved.status_code, moved.headers["Location"]) == (302, "/")
    upgrade = requests.get(url, headers={"Upgrade": "websocket"}, timeout=20)
    assert upgrade.status_code == 501
    # Java's client offers HTTP/2 with every request, and goes on with HTTP/1.1.
    offer = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": "h2c",
        "HTTP2-Settings": "AAEAAEAA",
    }
    assert requests.post(url, body, headers=offer, timeout=20).json()["bytes"] == len(body)
    assert not {"upgrade", "http2-settings"} & set(
        requests.get(url, headers=offer, timeout=20).json()["headers"]
    )


def test_stop_ends_every_instance_and_start_serves_at_the_same_urls(tmp_path: Path) -> None:
    with world(tmp_path) as cloud:
        cloud.create("v1")
        cloud.deploy("v2", env={"START_S": "0.2"})
        before = cloud.split(to("v1", 50), to("v2", 50, "ver-2"))
        pids = {answer(before.uri)["pid"] for _ in range(30)}
        assert len(pids) == 2

    assert not any(is_running(pid) for pid in pids)
    with world(tmp_path) as cloud:
        # The first request arrives before the instance is up, and waits.
        assert answer(tag_url(before, "ver-2"))["revision"] == f"{SERVICE}-v2"
        after = cloud.get()
        assert (served(after), after.uri, after.etag) == (served(before), before.uri, before.etag)


HOLDER = """
import sys, threading
from pathlib import Path
from tests.contract.run_world import World, template, to, done

cloud = World(Path(sys.argv[1]))
cloud.create("v1")
cloud.deploy("v2", env={"CHILD": "1"})
service = cloud.split(to("v1", 70), to("v2", 30, "ver-2"))
operation = cloud.start_update("template", template=template("v3", env={"START_S": "2"}))
print(service.uri, operation.operation.name, flush=True)
threading.Event().wait()
"""


def test_killed_local_cloud_leaves_no_process_and_comes_back_with_traffic_and_urls(
    tmp_path: Path,
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with contextlib.closing(holder.stdout):
        uri, operation = holder.stdout.readline().split()
    pids = {answer(uri)["pid"] for _ in range(40)}
    assert len(pids) == 2
    log = (tmp_path / "run" / "logs" / f"{SERVICE}-v2.log").read_text()
    grandchild = int(log.split("child ")[1].split()[0])
    assert is_running(grandchild)

    holder.send_signal(signal.SIGKILL)
    holder.wait()

    for pid in (*pids, grandchild):
        until(lambda pid=pid: not is_running(pid), f"process {pid} to end")
    with world(tmp_path) as cloud:
        assert answer(uri)["revision"] in (f"{SERVICE}-v1", f"{SERVICE}-v2")
        service = cloud.get()
        assert service.uri == uri
        assert served(service) == [(f"{SERVICE}-v1", 70, ""), (f"{SERVICE}-v2", 30, "ver-2")]
        # The deployment that the kill interrupted was acknowledged, so it is carried out.
        until(lambda: cloud.services.get_operation({"name": operation}).done, "the operation")
        assert not cloud.services.get_operation({"name": operation}).HasField("error")
        assert cloud.get().latest_ready_revision == f"{NAME}/revisions/{SERVICE}-v3"
        assert served(cloud.get()) == served(service)


def test_process_left_by_an_earlier_run_is_killed_at_start(tmp_path: Path) -> None:
    with world(tmp_path) as cloud:
        cloud.create("v1")
    left = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        start_new_session=True,
        env={"K_REVISION": f"{SERVICE}-v1"},
    )
    started = psutil.Process(left.pid).create_time()
    with contextlib.closing(sqlite3.connect(tmp_path / "run" / "run.db")) as database, database:
        database.execute("INSERT INTO processes VALUES (?, ?, 'x')", (left.pid, started))

    with world(tmp_path):
        assert left.wait(timeout=10) == -signal.SIGKILL
