"""The process in which Math-Verify compares two answers; run as a script, never imported by others.

It speaks JSON, one object per line: `{"answer", "gold"}` in, `{"equal"}` out, after a first line
`{"ready": true}` or `{"error"}`. It ends when its input does. It imports nothing of ours, so that
it starts in the time that SymPy takes.

The limits here are the kernel's, because an answer such as `9^{9^{9^9}}` spends its time inside
one C call that no Python handler can interrupt. What they end is a forked child: this process,
which has one thread and no GPU, keeps the imported libraries and forks the next in milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

CPU_LIMIT_S = 1.0
MEMORY_LIMIT_BYTES = 1 << 30
OUT_OF_MEMORY = 77  # exit status of a child whose comparison needed more
WARM_UP = ((r"\frac{1}{2}", r"\sqrt{x^2+1}"), ("[1,2]", r"x \in (1,2]"), (r"\{1,2\}", "x=2"))


def load_comparison() -> Callable[[str, str], bool]:
    """Import Math-Verify, slow, and return the comparison of an answer with a gold."""
    from dataclasses import replace

    from math_verify import (  # pyright: ignore[reportMissingTypeStubs]
        LatexExtractionConfig,
        parse,
        verify,
    )

    logging.disable(logging.CRITICAL)  # it warns that its own time limit is off
    latex = LatexExtractionConfig()
    # Without `units=False` it drops single letters after a number, variables included.
    latex = replace(latex, normalization_config=replace(latex.normalization_config, units=False))

    def compare(answer: str, gold: str) -> bool:
        # Dollars make it read the whole; from a bare `2\sqrt{3}` it would keep the leading 2.
        # A limit of 0 turns that off: it is a Python signal handler, too late for a long C call.
        parsed: list[list[Any]] = [
            parse(f"${text}$", [latex], fallback_mode="no_fallback", parsing_timeout=0)
            for text in (gold, answer)
        ]
        return all(parsed) and verify(
            parsed[0], parsed[1], float_rounding=decimals(parsed), timeout_seconds=0
        )

    return compare


def decimals(parsed: list[list[Any]]) -> int:
    """To how many decimals expressions are compared: to six, and where decimal numbers in them are
    small to four significant digits of the smallest, so that 4e-7 is not 1e-7."""
    from sympy import Basic, Float  # pyright: ignore[reportMissingTypeStubs]

    read: list[Any] = [e for expressions in parsed for e in expressions if isinstance(e, Basic)]
    floats = [abs(float(number)) for whole in read for number in whole.doit().atoms(Float)]
    smallest = min(filter(None, floats), default=1)
    return max(6, 4 - math.floor(math.log10(smallest)))


def serve(compare: Callable[[str, str], bool], replies: TextIO) -> None:
    """Answer requests until the input ends; the CPU limit may end this process before that.

    A request is sent only after the reply to the one before, so no unread one is lost then.
    """
    for line in sys.stdin:
        pair = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
        try:
            equal = bool(compare(pair["answer"], pair["gold"]))
        except MemoryError:
            os._exit(OUT_OF_MEMORY)  # the next comparison gets a process with its memory free
        except Exception:  # untrusted LaTeX: the parser and SymPy raise nearly anything
            equal = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(json.dumps({"equal": equal}) + "\n")


def main() -> None:
    """Load the comparison, then keep one child that serves it."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a library that prints must not speak our protocol
    try:
        compare = load_comparison()
        # First uses build tables for half a second; that is not an answer's time.
        for answer, gold in WARM_UP:
            compare(answer, gold)
    except Exception:
        replies.write(json.dumps({"error": traceback.format_exc()}) + "\n")
        return
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    replies.write('{"ready": true}\n')
    while child := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status not in (-signal.SIGPROF, OUT_OF_MEMORY):
            return  # the input has ended; or an accident, and whoever asks sees our output end
        replies.write('{"equal": false}\n')
    serve(compare, replies)


if __name__ == "__main__":
    main()
