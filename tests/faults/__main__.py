"""Faults on purpose, for as long as you like: `python -m tests.faults --minutes 10`.

Kinds take turns; a try is decided by its seed. A failure is printed with the command that repeats
it, and makes the exit code 1.
"""

from __future__ import annotations

import os

# Before NumPy is there: forks must find no threads.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "0"}

if __name__ == "__main__":
    from tests.faults.campaign import main

    main()
