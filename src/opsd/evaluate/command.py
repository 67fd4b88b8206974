"""What `opsd evaluate` does: models x one suite, in several languages; one table."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd.evaluate import suites
from opsd.evaluate.asking import Asking, asking, run_folder
from opsd.evaluate.run import evaluate
from opsd.evaluate.samples import protocol
from opsd.evaluate.show import show_published, show_results
from opsd.model import adapter_folder, locate
from opsd.rollout.engine import Sampling
from opsd.run import log
from opsd.types import UserError


def evaluate_models(
    models: Sequence[str],
    *,
    suite: str | None = None,
    data: str | None = None,
    data_dir: Path | None = None,
    languages: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    split: str = "test",
    limit: int | None = None,
    samples: int = 4,
    budgets: Sequence[int] = (1024,),
    temperature: float = 1.0,
    top_p: float = 0.95,
    thinking: bool | None = None,
    plain: bool = False,
    recipe: str | None = None,
    skip_long: bool = False,
    seed: int = 0,
    output: Path | None = None,
) -> dict[str, Any]:
    """Evaluates every model on one suite (or file) under one protocol; prints a table, returns all
    results. `output` is by default the run's own `eval` folder where all trained models lie in one
    run, else `runs/eval`."""
    models = [os.path.normpath(x) if Path(x).exists() else x for x in models]
    for model in models:
        adapter_folder(*locate(model))  # refuses what is not there before the first is evaluated
    asked = asking(models, recipe, plain, thinking)
    chosen = _suite(suite, data, split, columns or {}, asked.columns)
    if data is not None:
        languages = _trained_on(asked, languages)
    problems = suites.read(chosen, languages, data_dir, limit)
    log(asked.said)
    if chosen.protocol:
        log(f"published numbers on {chosen.name}: {chosen.protocol}")
    how = protocol(
        asked.prompt,
        Sampling(temperature=temperature, top_p=top_p),
        budgets,
        seed=seed,
        after_think=asked.after_think,
    )
    output = output or _output(models)
    outcomes = [
        evaluate(
            model,
            problems,
            chosen.name,
            how,
            samples,
            output / _folder(model) / chosen.name,
            source=_place(chosen),
            skip_long=skip_long,
        )
        for model in dict.fromkeys(models)
    ]
    results = [result for outcome in outcomes for result in outcome["results"]]
    show_results(results, chosen.aside)
    show_published(asked.published, chosen.name, results)
    log(f"samples and results: {output}")
    return {"seconds": sum(outcome["seconds"] for outcome in outcomes), "results": results}


def _suite(
    name: str | None,
    data: str | None,
    split: str,
    columns: Mapping[str, str],
    trained: Mapping[str, str],
) -> suites.Suite:
    if name is not None and data is None:
        if columns:
            raise UserError(f"--column is for --data, a file of your own: {name} has its own")
        return suites.suite(name)
    if data is not None and name is None:
        return suites.own(data, split, columns=columns, trained_columns=trained)
    raise UserError(
        f"name either --suite ({', '.join(suites.SUITES)}) or --data, a file of your own"
    )


def _trained_on(asked: Asking, languages: Sequence[str]) -> Sequence[str]:
    """The languages in which a file of the user's own is read: those asked for, else those that the
    models were trained on."""
    if languages or not asked.languages:
        return languages
    log(f"languages, as in training: {', '.join(asked.languages)}")
    return asked.languages


def _output(models: Sequence[str]) -> Path:
    runs = {run for model in models if (run := run_folder(model)) is not None}
    return runs.pop() / "eval" if len(runs) == 1 else Path("runs/eval")


def _place(suite: suites.Suite) -> str:
    """What a file of the user's own is known by, apart from its name, which another one may have;
    published suites are by theirs."""
    if suite.languages:
        return ""
    file = Path(suite.source)
    return str(file.resolve()) if file.suffix else f"{suite.source} {suite.split}"


def _folder(model: str) -> str:
    """A model's name as one folder name."""
    return re.sub(r"[^\w.-]+", "_", model.strip("./")) or "model"
