import os
import subprocess
import sys
import time

import pytest
from tests.conftest import ROOT, environment

from tunesmith.models import device
from tunesmith.sweep import forkserver

STARTED = """
from multiprocessing import forkserver as standard
from tunesmith.sweep import forkserver
forkserver.start()
print(standard._forkserver._forkserver_pid)
"""


def lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux" or device.may_have_accelerator(), reason="workers are spawned here")
def test_a_command_that_is_refused_leaves_no_process_that_loads_on(tmp_path):
    with (tmp_path / "out").open("w+") as out:  # a pipe would stay open as long as the process lives
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", STARTED], cwd=ROOT, env=environment(), stdout=out, check=True)
        out.seek(0)
        pid = int(out.read())
    until = time.monotonic() + 4  # loading takes twice as long
    while lives(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not lives(pid), f"still there {time.monotonic() - began:.1f} s after the start"


def test_with_an_accelerator_each_worker_is_spawned(monkeypatch):
    monkeypatch.setattr(device, "may_have_accelerator", lambda: True)
    assert forkserver.context().get_start_method() == "spawn"
