"""A run's traces as values, in the newest format and in older ones, which lack later additions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Len
from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from opsd.runs.files import distinct_names
from opsd.runs.folder import run_of
from opsd.runs.json_files import as_type, rows
from opsd.types import UserError

MOST_TOKENS = 50_000
"""Tokens on one page: the browser stays fast, and the file has at most some tens of megabytes."""


_TOLERANT = ConfigDict(extra="allow", strict=True)
_Values = list[float | None]
_Columns = dict[str, _Values]


@with_config(_TOLERANT)
class _Reader(TypedDict):
    name: str
    weights: NotRequired[str]
    top: list[list[Annotated[list[str | float | None], Len(2, 2)]]]
    entropy: _Values
    logp: NotRequired[_Values]


_Pair = with_config(_TOLERANT)(
    TypedDict(
        "_Pair",
        {
            "from": str,
            "to": str,
            "part": Literal["whole", "reference", "question", "base", "target"],
            "divergence": _Values,
            "log_ratio": _Values,
        },
    )
)


@with_config(_TOLERANT)
class _Signal(TypedDict):
    type: str
    value: NotRequired[_Values]
    unclipped: NotRequired[_Values]
    weight: NotRequired[_Values]
    loss: NotRequired[_Values]
    advantage: NotRequired[_Values]
    in_loss: NotRequired[list[bool | None]]
    columns: NotRequired[_Columns]
    votes: NotRequired[_Columns]
    pairs: NotRequired[list[_Pair]]


@with_config(_TOLERANT)
class _View(TypedDict):
    name: str
    weights: NotRequired[str]
    prompt: str


@with_config(_TOLERANT)
class _Trace(TypedDict):
    """The part of a line of `traces/*.jsonl` that is shown; for a diffusion model's rollout, a line
    is one state."""

    step: NotRequired[int]
    state: NotRequired[int]
    tokens: list[str]
    masked: NotRequired[list[bool]]
    readers: list[_Reader]
    signals: list[_Signal]
    views: NotRequired[list[_View]]


_TRACE = TypeAdapter(_Trace)


@dataclass(frozen=True)
class Traced:
    """One line of a run's `traces/`: written in training, or made later from a `checkpoint`."""

    run: str
    row: Mapping[str, Any]
    checkpoint: bool = False

    @property
    def step(self) -> int:
        """The step that trains on the rollout, counted from 1 as in the log (the file counts from
        0); for a checkpoint, the number of its steps, 0 before training."""
        return int(self.row.get("step", 0)) + (not self.checkpoint)

    @property
    def tokens(self) -> Sequence[str]:
        return self.row["tokens"]


def load_traces(runs: Sequence[Path], steps: Sequence[int] = ()) -> list[Traced]:
    """The traces of run folders, and of folders that contain run folders, by run and step; only
    those of `steps`, if any are given.

    Raises UserError for a folder without traces, and for a line that is not a trace.
    """
    if not runs:
        raise UserError("no run to inspect: name at least one run folder")
    named = dict.fromkeys(run_of(Path(path)) for path in runs)
    folders = [folder for path in named for folder in _with_traces(path)]
    labels = distinct_names(folders, deepest=4)
    found = [traced for f, label in zip(folders, labels, strict=True) for traced in _read(f, label)]
    there = sorted({traced.step for traced in found})
    for step in steps:
        if step not in there:
            known = ", ".join(map(str, there))
            raise UserError(f"no trace of step {step}; steps with traces: {known}")
    kept = [traced for traced in found if not steps or traced.step in steps]
    order = {label: place for place, label in enumerate(labels)}
    return sorted(kept, key=lambda traced: (order[traced.run], traced.step))


def within(traced: Sequence[Traced], most: int = MOST_TOKENS) -> tuple[list[Traced], list[int]]:
    """The traces of as many whole steps as fit into `most` tokens: the first, the last and evenly
    chosen ones between them; and the steps that are left out."""
    steps = sorted({one.step for one in traced})
    tokens = dict.fromkeys(steps, 0)
    for one in traced:
        tokens[one.step] += len(one.tokens)
    kept = steps
    while len(kept) > 1 and sum(tokens[step] for step in kept) > most:
        fewer = len(kept) - 1
        spread = max(1, fewer - 1)
        kept = [steps[round(i * (len(steps) - 1) / spread)] for i in range(fewer)]
    return [one for one in traced if one.step in kept], sorted(set(steps) - set(kept))


def _with_traces(path: Path) -> list[Path]:
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; name the output folder of `opsd train`")
    inside = [folder for folder in (path, *sorted(path.iterdir())) if any(_files(folder))]
    if not inside:
        raise UserError(
            f"{path} has no traces: train with --set train.trace_steps=25 (every 25 steps), or"
            " create them from a checkpoint with --checkpoint STEP"
        )
    return inside[:1] if inside[0] == path else inside


def _files(folder: Path) -> Iterator[Path]:
    """Yields the trace files that contain a complete line."""
    for file in sorted((folder / "traces").glob("*.jsonl")):
        if next(rows(file), None) is not None:
            yield file


def _read(folder: Path, label: str) -> Iterator[Traced]:
    for file in _files(folder):
        for number, row in enumerate(rows(file), 1):
            where = f"{file}, line {number}: not a trace"
            as_type(_TRACE, row, where)
            fault = _fault(row)
            if fault:
                raise UserError(f"{where} ({fault})")
            yield Traced(label, row, file.stem.startswith("checkpoint-"))


def _fault(row: Mapping[str, Any]) -> str | None:
    """What is wrong with the lengths in a line, in a few words."""
    length = len(row["tokens"])
    inner = [pair for signal in row["signals"] for pair in signal.get("pairs", ())]
    named = [
        signal[key] for signal in row["signals"] for key in ("columns", "votes") if key in signal
    ]
    masks = {"masked": row.get("masked", row["tokens"])}
    for part in (masks, *row["readers"], *row["signals"], *inner, *named):
        for name, values in part.items():
            if isinstance(values, list) and name != "pairs" and len(values) != length:
                return f"{len(values)} values of '{name}' for {length} tokens"
    return None
