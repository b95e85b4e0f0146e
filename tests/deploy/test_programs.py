"""How programs are run: what they say, and what Ctrl-C does to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from deploy.programs import ProgramFailed, relay
from tests.deploy.conftest import ROOT

PATIENT = """
import signal, sys, time
def give_back(*_):
    print("lock given back", flush=True)
    sys.exit(1)
signal.signal(signal.SIGINT, give_back)
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""


def test_what_a_program_says_is_shown_and_kept(capfd: pytest.CaptureFixture[str]) -> None:
    program = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
    with pytest.raises(ProgramFailed) as failed:
        relay([sys.executable, "-u", "-c", program])
    assert failed.value.said == "one\ntwo\n"
    assert "one\ntwo\n" in capfd.readouterr().out


def test_interrupted_program_may_give_back_its_lock() -> None:
    caller = "import sys; from deploy.programs import relay; relay(sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", caller, sys.executable, "-c", PATIENT],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line == "ready\n":
                break
        os.killpg(running.pid, signal.SIGINT)
        said, failed = running.communicate()
    assert said == "lock given back\n", failed
    assert "ProgramFailed" in failed
