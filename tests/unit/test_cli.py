from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from medvlp.errors import InputError
from medvlp.guarded import run_guarded

COMMANDS = (
    "demo", "phantom", "index", "verify", "train", "zeroshot", "embed", "search", "evaluate",
    "report", "doctor",
)  # fmt: skip


def medvlp(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "medvlp.cli", *args],
        capture_output=True, text=True, timeout=60, env={**os.environ, **environment},
    )  # fmt: skip


def raiser(error: BaseException):
    def action():
        raise error

    return action


def test_help_imports_no_torch():
    code = (
        "import sys; sys.argv = ['medvlp', 'index', '--help']\n"
        "from medvlp.cli import main\n"
        "try: main()\n"
        "finally: print('HEAVY', [m for m in "
        "('torch', 'lightning', 'transformers', 'monai', 'polars', 'pydicom') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--kind" in done.stdout
    assert done.stdout.strip().endswith("HEAVY []")


def test_bare_command_lists_every_command():
    done = medvlp()
    assert all(name in done.stdout for name in COMMANDS)
    assert done.stderr == ""


def test_version():
    done = medvlp("--version")
    assert done.returncode == 0
    assert done.stdout == "medvlp 0.1.0\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["index"], "Missing argument"),
        (["nope"], "No such command 'nope'"),
        (["index", "--kid", "x"], "--kind"),
        (["search", "pneumothorax", "--index", "x", "--k", "0"], "--k"),
    ],
)
def test_wrong_use_is_one_line(args, says):
    done = medvlp(*args)
    assert done.returncode == 2
    assert says in done.stderr
    assert "remedy: see --help" in done.stderr
    assert done.stderr.count("\n") == 1


def test_user_error_says_what_and_remedy(capsys):
    code = run_guarded(raiser(InputError("label 'x' [of 3]\nis unknown", remedy="see labels")))
    shown = capsys.readouterr().err
    assert code == 2
    assert shown == "medvlp: label 'x' [of 3] is unknown; remedy: see labels\n"


def test_paths_of_archive_files_are_not_shown(capsys):
    path = "/archive/DOE_JANE_19700101/1.dcm"
    code = run_guarded(raiser(PermissionError(errno.EACCES, "Permission denied", path)))
    shown = capsys.readouterr().err
    assert code == 3
    assert "DOE" not in shown
    assert "Permission denied" in shown


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        OSError("2048 requested and 0 written"),
    ],
)
def test_full_disk_is_named(error, capsys):
    assert run_guarded(raiser(error)) == 3
    assert "the disk is full; remedy: make room" in capsys.readouterr().err


def test_full_disk_is_named_behind_another_error(capsys):
    def action():
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise ValueError("writer closed") from error

    assert run_guarded(action) == 3
    assert "the disk is full" in capsys.readouterr().err


def test_memory_and_internal_errors(capsys):
    assert run_guarded(raiser(MemoryError())) == 3
    assert "out of memory" in capsys.readouterr().err
    assert run_guarded(raiser(KeyError("DOE^JANE"))) == 1
    shown = capsys.readouterr().err
    assert "KeyError at test_cli.py" in shown
    assert "DOE" not in shown


def test_exit_codes_pass_through():
    assert run_guarded(lambda: None) == 0
    assert run_guarded(lambda: 4) == 4


def test_interrupt_is_one_line():
    code = (
        "import time, sys\n"
        "from medvlp import cli\n"
        "@cli.app.command()\n"
        "def wait():\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(50)\n"
        "sys.argv = ['medvlp', 'wait']\n"
        "cli.main()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=30)
    assert child.returncode == 130
    assert stderr.startswith("medvlp: interrupted")
    assert stderr.count("\n") == 1
