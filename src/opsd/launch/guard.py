"""A script that runs a command for the process at the other end of its standard input.

Each line there is the number of a signal that the command is sent. When the other end closes, its
process having ended in whatever way, the command is killed with all that it has started. The exit
code is the command's, or 128 and the signal that ended it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading


def main(command: list[str]) -> int:
    """Runs a command to its end; what that leaves behind is killed as well."""
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
    # An actor that ends kills its children, of which this must be none to see to the rest.
    if inner := os.fork():
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) & 0xFF)
    ended = main(sys.argv[1:])
    sys.stderr.flush()
    # The other thread waits for standard input, which Python's own end would wait for in turn.
    os._exit(ended)
