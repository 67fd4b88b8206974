"""The child's side of a worker: its script calls `keep_answering` and does nothing after it.

It speaks JSON, one object per line: requests in, replies out, after a first line `{"ready": true}`
or `{"error"}`. It ends when its input does. It imports nothing heavy itself, so that only a
worker's own imports take time at the start.

The limits are the kernel's, because untrusted input spends its time inside one C call that no
Python handler can interrupt. They kill a forked child: this process, which has one thread and no
GPU, keeps the imported libraries and forks the next child in milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

Answer = Callable[[dict[str, Any]], dict[str, Any]]

OUT_OF_MEMORY = 77  # exit status of a child that needed more memory
_ENDED = {-signal.SIGPROF: "time", OUT_OF_MEMORY: "memory"}


def keep_answering(load: Callable[[], Answer], cpu_s: float, memory_bytes: int) -> None:
    """Load the answering function, then keep one child that runs it, with at most `cpu_s` seconds
    of CPU time per request and at most `memory_bytes` of address space. A request that exceeds a
    limit ends the child, and is answered with `{"limit": "time"}` or `{"limit": "memory"}`."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a library that prints must not speak our protocol
    try:
        answer = load()
    except Exception:
        replies.write(json.dumps({"error": traceback.format_exc()}) + "\n")
        return
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    replies.write('{"ready": true}\n')
    while child := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status not in _ENDED:
            return  # the input has ended; or an accident, and the parent sees our output end
        replies.write(json.dumps({"limit": _ENDED[status]}) + "\n")
    _serve(answer, cpu_s, replies)


def _serve(answer: Answer, cpu_s: float, replies: TextIO) -> None:
    """Answer requests until the input ends; the CPU limit may end this process before that.

    A request is only sent after the reply to the previous one, so no unread request is lost then.
    """
    for line in sys.stdin:
        try:
            request = json.loads(line)
            signal.setitimer(signal.ITIMER_PROF, cpu_s)
            reply = json.dumps(answer(request))
        except MemoryError:
            os._exit(OUT_OF_MEMORY)  # the next request gets a process with its memory free
        except Exception as error:  # untrusted input may cause nearly any exception
            reply = json.dumps({"error": f"{type(error).__name__}: {error}"})
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(reply + "\n")
