"""The summary at the end of a training run: the gain, the cost, and the next command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from opsd.recipe.schema import Recipe


def summary(
    recipe: Recipe,
    output: Path,
    history: Sequence[Mapping[str, Any]],
    seconds: float,
    chosen: int | None = None,
) -> list[str]:
    """The summary of a finished run, from its log lines in order. `chosen` is the step whose
    weights the model has, by default the last one."""
    steps = max((row.get("step", 0) for row in history), default=0)
    tokens = max((row.get("generated_tokens", 0) for row in history), default=0)
    took = timedelta(seconds=round(seconds))
    return [
        *_dev(history, chosen),
        f"{steps:,} steps, {tokens:,} tokens written, {took}",
        f"next: {shlex.join(next_command(recipe, output))}",
    ]


def _dev(history: Sequence[Mapping[str, Any]], chosen: int | None) -> list[str]:
    """The dev score before training (the first one measured) and after it. A checkpoint is called
    the best only if others are worse."""
    scores = {row["step"]: row["eval_avg@k"] for row in history if "eval_avg@k" in row}
    if not scores:
        return []
    first, last = min(scores), chosen if chosen in scores else max(scores)
    before = "before" if first == 0 else f"at step {first}"
    if last == first:
        return [f"dev avg@k: {scores[first]:.3f} {before}"]
    beaten = first == 0 and scores[0] >= max(score for step, score in scores.items() if step)
    best = last == chosen and not beaten and len(set(scores.values())) > 1
    after = f"after (step {last}{', the best on dev' if best else ''})"
    none = "; no checkpoint beat the model before training" if beaten else ""
    return [f"dev avg@k: {scores[first]:.3f} {before}, {scores[last]:.3f} {after}{none}"]


def next_command(recipe: Recipe, output: Path) -> list[str]:
    """The command that evaluates the model next to its base model if the recipe says on what; else
    the one that shows the run."""
    spoken = [*recipe.data.asked]
    about = {"--language": ",".join(spoken)} if spoken else {}
    if recipe.published:
        about = {"--suite": recipe.published[0].suite} | about
    elif recipe.data.source.startswith("miniature"):
        about = {"--data": recipe.data.source} | about
    else:
        return ["opsd", "report", str(output)]
    options = [word for pair in about.items() for word in pair]
    return ["opsd", "evaluate", recipe.model.name, str(output / "model"), *options]
