"""What `opsd evaluate` does: models x one file of problems, one table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from opsd import recipe as recipes
from opsd.data import problems
from opsd.data.problems import Data
from opsd.evaluate.run import budgets_protocol, evaluate
from opsd.rollout.engine import Sampling
from opsd.teacher.context import StudentPrompt


def evaluate_models(
    models: Sequence[str],
    *,
    data: str,
    language: str,
    split: str,
    limit: int | None,
    samples: int,
    budgets: Sequence[int],
    temperature: float,
    top_p: float,
    thinking: bool,
    recipe: str | None,
    seed: int,
    output: Path,
) -> dict[str, Any]:
    """Evaluates every model under one protocol; prints a table, returns all results.

    With `recipe`, the prompt is the one that its student learned on.
    """
    loaded, _ = problems.load(Data(source=data, split=split, language=language, limit=limit))
    asked, after_think = StudentPrompt(template_options={"enable_thinking": thinking}), False
    if recipe is not None:
        trained = recipes.load(recipe)
        asked, after_think = trained.method.student, trained.verifier.after_think
    protocol = budgets_protocol(
        asked,
        Sampling(temperature=temperature, top_p=top_p),
        samples,
        budgets,
        seed=seed,
        after_think=after_think,
    )
    suite = Path(data).stem
    outcomes = [
        evaluate(model, loaded, suite, protocol, output / _folder(model) / f"{suite}-{language}")
        for model in models
    ]
    results = [result for outcome in outcomes for result in outcome["results"]]
    _print(results)
    return {"seconds": sum(outcome["seconds"] for outcome in outcomes), "results": results}


def _folder(model: str) -> str:
    """A model's name as one folder name."""
    return re.sub(r"[^\w.-]+", "_", model.strip("./")) or "model"


def _print(results: Sequence[dict[str, Any]]) -> None:
    table = Table()
    table.add_column("model", overflow="fold")
    for heading in ("language", "budget", "problems", "avg@k", "95 %", "pass@k", "format"):
        table.add_column(heading, no_wrap=True)
    for row in results:
        low, high = row["interval"]
        table.add_row(
            row["model"],
            row["language"],
            str(row["budget"]),
            f"{row['n_problems']} x {row['samples']}",
            f"{row['avg@k']:.3f}",
            f"{low:.2f}-{high:.2f}",
            f"{row['pass@k']:.3f}",
            f"{row['format_rate']:.3f}",
        )
    Console(stderr=True).print(table)
