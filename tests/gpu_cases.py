"""Cases that end as a measurement may."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator


def rows(kind: str) -> Iterator[dict]:
    yield {"measure": "gpu_cases", "kind": kind}
    if kind == "fails":
        raise ValueError("of no use\nmore of it")
    if kind == "dies":
        os._exit(3)
    if kind == "hangs":
        time.sleep(600)
