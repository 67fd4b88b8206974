"""Problems that are read during training: for sets that are too large to load first.

Every process reads its own share of the rows, in an order that depends only on the seed and the
epoch, so that a resumed run finds its place again by counting.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opsd.data.filters import DataReport
from opsd.data.rows import Row, file_rows, hub_rows, is_file
from opsd.types import Problem, UserError

SHUFFLED = 1000
"""Size of the shuffle buffer, in rows."""

LOOKED = 10_000
"""How many rows are read at most to find a stream's first few problems."""

_PLACE = "\0place"
"""The key under which a file's streamed row keeps its place; no column has this name."""

Convert = Callable[[Row, str, DataReport], Iterator[Problem]]


@dataclass(frozen=True)
class StreamPart:
    """One source of rows (a `datasets.IterableDataset`), `convert`, which turns a row into problems
    (given the row's place and the account), and how often its problems are drawn, relative to the
    other parts."""

    name: str
    rows: Any
    convert: Convert
    share: float = 1.0

    def problems(self, rank: int, world: int, seed: int, account: DataReport) -> Iterator[Problem]:
        """Yields this process's problems endlessly, every epoch in another order."""
        from datasets.distributed import split_dataset_by_node

        shuffled = self.rows.shuffle(seed=seed, buffer_size=SHUFFLED)
        own = split_dataset_by_node(shuffled, rank=rank, world_size=world)
        for epoch in itertools.count():
            own.set_epoch(epoch)
            made = 0
            for number, row in enumerate(own, 1):
                for problem in self._made(row, f"streamed row {number}", account):
                    made += 1
                    yield problem
            if not made:
                raise UserError(f"{self.name}: no problem for process {rank} of {world}")

    def _made(self, row: Row, counted: str, account: DataReport) -> Iterator[Problem]:
        columns = {name: value for name, value in row.items() if name != _PLACE}
        return self.convert(columns, row.get(_PLACE, f"{self.name}, {counted}"), account)


@dataclass(frozen=True)
class ProblemStream:
    """Problems of one or several parts, without those that are held out for evaluation. `account`
    counts what this process has read so far."""

    parts: tuple[StreamPart, ...]
    held_out: Callable[[Problem], bool] = lambda problem: False
    account: DataReport = field(default_factory=DataReport)

    def read(self, rank: int = 0, world: int = 1, seed: int = 0) -> Iterator[Problem]:
        """Yields this process's problems endlessly. Raises UserError if there are none."""
        turns = random.Random(seed)
        sources = [part.problems(rank, world, seed, self.account) for part in self.parts]
        shares = [part.share for part in self.parts]
        refused = 0
        while True:
            (source,) = turns.choices(sources, shares)
            problem = next(source)
            if not self.held_out(problem):
                refused = 0
                self.account.kept[problem.language] += 1
                yield problem
            elif (refused := refused + 1) > 100_000:
                raise UserError("data.dev holds out every problem of the stream")

    def head(self, problems: int) -> list[Problem]:
        """Every part's first problems, in their order; they are not counted in `account`."""
        account = DataReport()
        found: list[Problem] = []
        for part in self.parts:
            made = (
                problem
                for number, row in enumerate(part.rows.take(max(LOOKED, 2 * problems)), 1)
                for problem in part._made(row, f"row {number}", account)
                if not self.held_out(problem)
            )
            found += itertools.islice(made, problems)
        return found

    def without(self, held_out: Callable[[Problem], bool]) -> ProblemStream:
        return replace(self, held_out=held_out)


def row_stream(source: str, config: str | None, split: str, revision: str | None) -> Any:
    """The rows of a file or a Hub dataset as a `datasets.IterableDataset`."""
    from datasets import IterableDataset

    if is_file(source):
        return IterableDataset.from_generator(_file, gen_kwargs={"paths": [source]})
    return hub_rows(source, config, split, revision, streaming=True)


def _file(paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    for path in paths:
        yield from ({**row, _PLACE: place} for place, row in file_rows(Path(path)))
