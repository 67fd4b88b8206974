"""A script that runs a command for the process at the other end of its standard input.

Each input line is the number of a signal to send to the command. When the other end closes, because
its process ended in any way, the command is killed with all its child processes. The exit code is
the command's, or 128 plus the signal that ended it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading


def main(command: list[str]) -> int:
    """Run a command to its end, then kill any processes that it leaves behind."""
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"{command[0]} cannot be started: {error.strerror}", file=sys.stderr)
        return 127

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)

    def listen() -> None:
        for line in sys.stdin:
            child.send_signal(int(line))
        kill()

    threading.Thread(target=listen, daemon=True).start()
    code = child.wait()
    kill()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    # An actor that ends kills its child processes: fork, so that this process survives to clean up.
    if inner := os.fork():
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) & 0xFF)
    ended = main(sys.argv[1:])
    sys.stderr.flush()
    # Python's normal exit would wait for the thread that reads standard input.
    os._exit(ended)
