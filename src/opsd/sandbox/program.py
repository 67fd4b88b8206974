"""The process that runs a model's Python code and its tests; run as a script, once per solution.

It reads a request from its input, `{"source", "tests", "cpu_s", "memory_bytes", "token"}`, and
writes a line `[token, null]` if the code is Python, else `[token, why]`; then such a line for each
test that has ended. If the code ends the process, it has passed no further test.

It uses what the kernel offers: limits, namespaces without a network and without other visible
processes, Landlock's rules for files. If the kernel offers less, an audit hook still refuses what
Python itself would do. This protects the machine from a model's mistakes and shortcuts; against
malicious code, run all of it in a container.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

MAX_FILE_BYTES = 1 << 24
MAX_FILES = 64
MAX_PROCESSES = 64
SAID = 300
"""How many characters of an error are reported."""

_NEW_USER, _NEW_NET, _NEW_PID, _NEW_IPC = 0x10000000, 0x40000000, 0x20000000, 0x08000000
_SET_PDEATHSIG, _SET_NO_NEW_PRIVS = 1, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_READ = 0b1101
"""Landlock's rights to execute a file, to read a file, and to read a folder."""

_LEAVES = ("socket.", "subprocess.", "os.exec", "os.fork", "os.kill", "os.posix_spawn", "os.spawn")
_CHANGES = {
    *("os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir"),
    *("os.symlink", "os.truncate", "os.utime"),
}


def main() -> None:
    """Runs the request's code and then its tests, all in one namespace."""
    request = json.load(sys.stdin)
    results = os.fdopen(os.dup(1), "w", buffering=1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    confine(request["cpu_s"], request["memory_bytes"])

    def tell(said: str | None) -> None:
        results.write(json.dumps([request["token"], said]) + "\n")

    names: dict[str, Any] = {"__name__": "solution"}
    source = request["source"]
    read = _fault(lambda: compile(source, "<solution>", "exec"))
    tell(read)
    failed = read or _fault(lambda: exec(source, names))
    for test in request["tests"]:
        tell(failed or _fault(lambda test=test: exec(test, names)))


def _fault(run: Callable[[], Any]) -> str | None:
    """What goes wrong in a piece of code; None if nothing does. Exiting counts as wrong, too."""
    try:
        run()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:SAID] if str(error) else type(error).__name__
    return None


def confine(cpu_s: float, memory_bytes: int) -> None:
    """Permanently removes this process's rights to what a solution does not need."""
    libc = ctypes.CDLL(None, use_errno=True)
    prctl = getattr(libc, "prctl", None)
    if prctl is not None:
        prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _leave_the_others(libc)
        prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _keep_to_this_folder(libc)
    whole = max(1, round(cpu_s))
    for limit, most in (
        (resource.RLIMIT_CPU, whole),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES),
        (resource.RLIMIT_NOFILE, MAX_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # macOS has not all of them
            resource.setrlimit(limit, (most, most))
    sys.addaudithook(_hook(os.getcwd()))


def _leave_the_others(libc: Any) -> None:
    """Moves into new namespaces, as a child that is the first process there: when it ends, all that
    it has started ends. Does nothing if the system does not allow that."""
    if libc.unshare(_NEW_USER | _NEW_NET | _NEW_PID | _NEW_IPC):
        return
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(status if status >= 0 else 128 - status)  # as a shell passes on a signal
    # Only processes in the namespace count, whatever else the user runs.
    resource.setrlimit(resource.RLIMIT_NPROC, (MAX_PROCESSES, MAX_PROCESSES))


def _keep_to_this_folder(libc: Any) -> None:
    """Applies Landlock: files can only be read in the folders of Python and the system's libraries,
    and only be written in this folder; no TCP; no signals to other processes. Does nothing if the
    kernel has no Landlock."""
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return
    files = (1 << (13, 14, 15, 15, 16)[min(version, 5) - 1]) - 1
    fields = [files, *([0b11] if version >= 4 else []), *([0b11] if version >= 6 else [])]
    rules = struct.pack(f"{len(fields)}Q", *fields)
    ruleset = libc.syscall(_CREATE_RULESET, rules, len(rules), 0)
    readable = {sys.prefix, sys.base_prefix, *filter(None, sys.path)}
    readable |= {"/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/urandom", "/proc/self"}
    for place, rights in (*((place, _READ) for place in sorted(readable)), (os.getcwd(), files)):
        with contextlib.suppress(OSError):
            folder = os.open(place, os.O_PATH)
            # A file can be granted fewer rights than a folder.
            own = rights if os.path.isdir(place) else rights & 0b101
            libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", own, folder), 0)
            os.close(folder)
    libc.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _hook(folder: str) -> Any:
    """An audit hook that refuses other processes, the network, and changes of files outside a
    folder."""
    inside = os.path.realpath(folder) + os.sep
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def changed(event: str, given: tuple[Any, ...]) -> list[Any]:
        if event == "open":
            return [given[0]] if isinstance(given[2], int) and given[2] & writes else []
        return [path for path in given[:2] if isinstance(path, str | bytes)]

    def audit(event: str, given: tuple[Any, ...]) -> None:
        if event.startswith(_LEAVES) or event == "os.system":
            raise PermissionError(f"{event} is not allowed here")
        for path in changed(event, given) if event == "open" or event in _CHANGES else ():
            if isinstance(path, int) or path == os.devnull:
                continue
            if not os.path.realpath(os.fsdecode(path)).startswith(inside):
                raise PermissionError(f"{event} outside the folder of the test")

    return audit


if __name__ == "__main__":
    main()
