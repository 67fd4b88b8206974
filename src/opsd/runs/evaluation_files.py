"""The files of an evaluation: their names, and their contents by key. Additional keys are allowed,
as versions differ. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NotRequired

from annotated_types import Len
from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from opsd.runs.json_files import as_type, document

SAMPLES, PROTOCOL, RESULT = "samples.jsonl", "protocol.json", "result.json"

_STRICT: ConfigDict = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

Pair = Annotated[list[int], Len(2, 2)]
Interval = Annotated[list[float], Len(2, 2)]


@with_config(_STRICT)
class Verdict(TypedDict):
    """The verdict on a sample within one budget; if the budget cuts the text, `chars` is the length
    of the part within it."""

    correct: bool
    format_ok: bool
    cut_off: bool
    said: NotRequired[str | None]
    chars: NotRequired[int]
    reward: NotRequired[float]
    repetition: NotRequired[Pair]
    fidelity: NotRequired[Pair]


@with_config(_STRICT)
class Sample(TypedDict):
    """A line of `samples.jsonl`."""

    model: str
    suite: str
    problem: str
    sample: int
    language: str
    row: int | None
    split: NotRequired[str]
    answer: str | None
    choices: NotRequired[list[str]]
    tokens: int
    budgets: dict[str, Verdict]


@with_config(_STRICT)
class How(TypedDict):
    """The `protocol` of `protocol.json`."""

    prompt: dict[str, Any]
    sampling: dict[str, Any]
    budgets: Annotated[list[int], Len(1)]


@with_config(_STRICT)
class Claim(TypedDict):
    """`protocol.json`; keys that earlier versions did not write are not required."""

    model: str
    source: str
    weights: list[Any]
    protocol: How
    template: str
    languages: NotRequired[dict[str, str]]
    splits: NotRequired[dict[str, float]]
    aside: NotRequired[list[str] | None]
    trained_from: NotRequired[str | None]
    begun: NotRequired[float]


Scores = with_config(_STRICT)(
    TypedDict(
        "Scores",
        {
            "n_problems": int,
            "avg@k": float,
            "pass@k": float,
            "maj@k": NotRequired[float | None],
            "pass_curve": NotRequired[list[float]],
            "format_rate": NotRequired[float | None],
            "accuracy_given_format": NotRequired[float | None],
            "cut_off": NotRequired[float | None],
            "mean_length": NotRequired[float | None],
            "repetition": NotRequired[float | None],
            "language_fidelity": NotRequired[float | None],
            "interval": NotRequired[Interval],
            "weight": NotRequired[float],
            "reward": NotRequired[float | None],
        },
    )
)


@with_config(_STRICT)
class Result(Scores):
    """A row of `result.json`; `splits` contains the scores of a suite's parts."""

    model: str
    suite: str
    language: str
    labels: NotRequired[str | list[str] | None]
    budget: int
    samples: int
    splits: NotRequired[dict[str, Scores]]


@with_config(_STRICT)
class ResultFile(TypedDict):
    """`result.json`."""

    seconds: NotRequired[float]
    results: list[Result]


SAMPLE: TypeAdapter[Sample] = TypeAdapter(Sample)
CLAIM: TypeAdapter[Claim] = TypeAdapter(Claim)
OUTCOME: TypeAdapter[ResultFile] = TypeAdapter(ResultFile)


def read(folder: Path) -> list[dict[str, Any]]:
    """The results in a folder, empty if there is no `result.json` yet. UserError if it is damaged,
    which an interrupted write never causes."""
    file = folder / RESULT
    if not file.is_file():
        return []
    hint = "; delete it, and evaluate again: it is rebuilt from the samples"
    content = document(file, hint)
    as_type(OUTCOME, content, str(file), hint)
    return content["results"]
