"""Work in processes of its own ends with the command that wanted it."""

import os
import subprocess
import sys
import time

COMMAND = """
import subprocess, sys
from medvlp.evaluate.suite.processes import run_apart
told = sys.argv[1]
script = f"echo $PPID > {told}.part; mv {told}.part {told}; exec sleep 20"
list(run_apart(subprocess.call, [["sh", "-c", script]], 1))
"""


def wait_until(true, seconds):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_killed_command_leaves_no_worker_behind(tmp_path):
    told = tmp_path / "worker"
    command = subprocess.Popen([sys.executable, "-c", COMMAND, str(told)])
    wait_until(told.exists, 60)
    worker = int(told.read_text())
    assert not gone(worker)
    command.kill()
    command.wait()
    wait_until(lambda: gone(worker), 10)
