"""The process in which Math-Verify compares two answers; run as a script, never imported by others.

An answer such as `9^{9^{9^9}}` would take all available time and memory (`opsd.sandbox.worker`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from opsd.sandbox.worker import Answer, keep_answering

CPU_LIMIT_S = 1.0
MEMORY_LIMIT_BYTES = 1 << 30
WARM_UP = ((r"\frac{1}{2}", r"\sqrt{x^2+1}"), ("[1,2]", r"x \in (1,2]"), (r"\{1,2\}", "x=2"))


def load_comparison() -> Callable[[str, str], bool]:
    """Import Math-Verify, which is slow, and return the comparison of an answer with a gold."""
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
        # A timeout of 0 turns its own off: a Python signal handler, too late for a long C call.
        parsed: list[list[Any]] = [
            parse(f"${text}$", [latex], fallback_mode="no_fallback", parsing_timeout=0)
            for text in (gold, answer)
        ]
        return all(parsed) and verify(
            parsed[0], parsed[1], float_rounding=decimals(parsed), timeout_seconds=0
        )

    return compare


def decimals(parsed: list[list[Any]]) -> int:
    """The number of decimals to which expressions are compared: six; if they contain small decimal
    numbers, enough for four significant digits of the smallest, so that 4e-7 is not 1e-7."""
    from sympy import Basic, Float  # pyright: ignore[reportMissingTypeStubs]

    read: list[Any] = [e for expressions in parsed for e in expressions if isinstance(e, Basic)]
    floats = [abs(float(number)) for whole in read for number in whole.doit().atoms(Float)]
    smallest = min(filter(None, floats), default=1)
    return max(6, 4 - math.floor(math.log10(smallest)))


def load() -> Answer:
    """Math-Verify, warm: the answer to `{"answer", "gold"}` is `{"equal"}`."""
    compare = load_comparison()
    # First uses build tables for half a second, which must not count against an answer.
    for answer, gold in WARM_UP:
        compare(answer, gold)
    return lambda pair: {"equal": bool(compare(pair["answer"], pair["gold"]))}


def main() -> None:
    """Compare answers until the input ends."""
    keep_answering(load, CPU_LIMIT_S, MEMORY_LIMIT_BYTES)


if __name__ == "__main__":
    main()
