"""What the system or the user puts in the way of a command: one line and an exit code."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from opsd.cli.commands import main
from opsd.cli.failures import shown, told
from opsd.runs.files import write_atomically
from opsd.types import RunFailed, UserError


def opsd(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "opsd", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.run(command, **{**pipes, "check": False, **options})


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((errno.ENOSPC, 1), (errno.EDQUOT, 1), (errno.EFBIG, 1), (errno.EMFILE, 1)),
        *((errno.ENFILE, 1), (errno.EIO, 1), (errno.ENOMEM, 1)),
        *((errno.EROFS, 2), (errno.ENAMETOOLONG, 2), (errno.EACCES, 2), (errno.EISDIR, 2)),
        *((errno.ENOTDIR, 2), (errno.EEXIST, 2), (errno.ENOENT, 2)),
    ],
)
def test_an_error_of_the_system_names_file_and_remedy(number, code):
    line, exit_code = told(OSError(number, os.strerror(number), "some/file"))
    assert exit_code == code
    assert line.startswith(f"some/file: {os.strerror(number)}")
    assert number == errno.EIO or ";" in line


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (UserError("a\nb"), "a b", 2),
        (RunFailed("a\nb"), "a b", 1),
        (MemoryError(), "out of memory", 1),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "CUDA out of memory. Tried", 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "out of memory", 1),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "free space", 1),
        (RecursionError(), "nested too deeply", 2),
    ],
)
def test_what_is_no_error_of_ours_is_told(error, line, code):
    found, exit_code = told(error)
    assert line in found and "\n" not in found and exit_code == code


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), RuntimeError("x")])
def test_our_own_errors_keep_their_traceback(error):
    assert told(error) is None


def test_a_message_does_nothing_to_a_terminal():
    assert shown("a\x1b[2Jb\0c\nd \ud800") == r"a\x1b[2Jb\x00c d \ud800"
    assert len(shown("a" * 100_000)) < 2000


def test_safetensors_still_tell_the_systems_number(tmp_path):
    with pytest.raises(SafetensorError) as lost:
        save_file({"a": torch.zeros(3)}, tmp_path / "no" / "such.safetensors")
    line, code = told(lost.value)
    assert "No such file" in line and code == 2


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    write_atomically(pipe, "a page")
    assert reader.communicate(timeout=30)[0] == "a page"
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"] and pipe.is_fifo()


def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = opsd("env", stdout=full)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("opsd: No space left on device; free space")


def test_a_limit_on_files_is_one_line(tmp_path):
    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    page = tmp_path / "page.html"
    recipe = ("quickstart", "--set", "data.limit=8", "--set", "data.dev=0")
    done = opsd("preview", *recipe, "--rows", "60", "--html", str(page), preexec_fn=small)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "File too large" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("arguments", [("env",), ("methods",), ("methods", "--json")])
def test_a_reader_that_has_had_enough_is_nothing_to_speak_of(arguments):
    read, write = os.pipe()
    os.close(read)
    done = opsd(*arguments, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.fixture
def printed(monkeypatch, capfd):
    """Runs a command in this process, on a terminal of some encoding: what it writes there."""

    def run(encoding: str, *arguments: str) -> bytes:
        terminal = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(terminal, encoding))
        monkeypatch.setattr(sys, "argv", ["opsd", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        sys.stdout.flush()
        assert (end.value.code or 0, capfd.readouterr().err) == (0, "")
        return terminal.getvalue()

    return run


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_these_letters_gets_the_same_document(encoding, printed):
    made, usual = (printed(name, "languages", "--json") for name in (encoding, "utf-8"))
    assert json.loads(made.decode(encoding)) == json.loads(usual)
    assert made != usual
    for arguments in (("languages",), ("methods", "copsd")):
        assert printed(encoding, *arguments)


def test_the_encoding_is_that_of_the_terminal():
    done = opsd("languages", "--json", env=os.environ | {"PYTHONIOENCODING": "ascii"}, text=False)
    assert (done.returncode, done.stderr) == (0, b"") and json.loads(done.stdout.decode("ascii"))


@pytest.mark.parametrize("recipe", ["a" * 300 + ".yaml", "a" * 10_000, "../" * 500, "a\nb", "\x1b"])
def test_a_recipe_of_an_odd_name_is_one_line(recipe, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["opsd", "train", recipe])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.isprintable() and len(line) < 2100


BEGUN = """
import signal
from opsd.cli.entry import leave, main
signal.signal(signal.SIGINT, leave)  # as main begins; before that it is Python's own start
print("begun", flush=True)
main()
"""


@pytest.mark.parametrize("seconds", [0.05, 0.15, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0])
def test_an_interruption_at_any_moment_is_one_line(seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", BEGUN, "preview", "quickstart", "--set", "data.limit=200"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors and "Exception ignored" not in errors
    if process.returncode:  # else it was done by then
        assert process.returncode == 130
        assert errors.splitlines()[-1].startswith("opsd: interrupted;")


@pytest.mark.parametrize("moment", ["_print_whatever_the_terminal", "_flush"])
def test_an_interruption_around_a_command_is_one_line(moment):
    interrupted = (
        "from opsd.cli import commands, entry\n"
        "def interrupted(*anything): raise KeyboardInterrupt\n"
        f"commands.{moment} = interrupted\n"
        "entry.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", interrupted, "languages"], capture_output=True, text=True
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 130 and line.startswith("opsd: interrupted;")
