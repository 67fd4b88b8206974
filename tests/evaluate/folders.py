"""Evaluation folders by hand: what was right is chosen, not sampled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd.evaluate.samples import described, protocol
from opsd.prompts.contexts import StudentPrompt
from opsd.rollout.engine import Sampling


def sample(problem: str, i: int, right: bool, **changes: Any) -> dict[str, Any]:
    """One row of samples.jsonl; well-formed where right, cut off where wrong."""
    row = {"model": "m", "suite": "suite", "language": "swa", "row": 0, "answer": "4"}
    said = "4" if right else None
    judged = {"correct": right, "format_ok": right, "cut_off": not right, "said": said}
    judged |= {"repetition": [1, 4] if right else [0, 0], "fidelity": [3 * right, 4 * right]}
    about = {**row, "problem": problem, "sample": i, "tokens": 6}
    return {**about, "budgets": {"4": judged, "8": judged}} | changes


def rows(right: Mapping[str, Sequence[bool]], **changes: Any) -> list[dict[str, Any]]:
    """Correctness per problem and sample, as rows."""
    return [
        sample(problem, i, yes, **changes)
        for problem, answers in right.items()
        for i, yes in enumerate(answers)
    ]


def evaluated(
    folder: Path, made: Sequence[Mapping[str, Any]], model: str = "m", **how: Any
) -> Path:
    """A folder as an evaluation leaves it."""
    sampling = Sampling(temperature=how.pop("temperature", 1.0))
    about = protocol(StudentPrompt(), sampling, how.pop("budgets", (4, 8)), **how)
    folder.mkdir(parents=True)
    claim = described(about, model, {str(row["language"]) for row in made})
    (folder / "protocol.json").write_text(json.dumps(claim))
    text = "".join(json.dumps({**row, "model": model}) + "\n" for row in made)
    (folder / "samples.jsonl").write_text(text)
    return folder
