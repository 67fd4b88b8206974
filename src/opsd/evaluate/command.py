"""What `opsd evaluate` does: it evaluates models on one suite, in one or several languages, and
prints one table."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd.console import log
from opsd.data.examples import after
from opsd.evaluate import contamination
from opsd.evaluate.checkpoints import selections
from opsd.evaluate.prompt_protocol import PromptProtocol, prompt_protocol, recipes_of, run_folder
from opsd.evaluate.remote import Endpoint
from opsd.evaluate.run import evaluate
from opsd.evaluate.samples import base_of, protocol
from opsd.evaluate.settings import Settings, deviations
from opsd.evaluate.show import show_published, show_results, show_selection
from opsd.lm.loading import adapter_folder, locate
from opsd.recipe.schema import Recipe
from opsd.rollout.engine import EngineChoice
from opsd.runs.folder import trained_model
from opsd.suites import loading as suites
from opsd.suites.files import Suite
from opsd.suites.published import reference, together
from opsd.types import Problem, UserError


def evaluate_models(
    models: Sequence[str],
    *,
    suite: str | None = None,
    data: str | None = None,
    data_dir: Path | None = None,
    languages: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    splits: Sequence[str] = (),
    limit: int | None = None,
    samples: int | None = None,
    budgets: Sequence[int] = (),
    temperature: float | None = None,
    top_p: float | None = None,
    thinking: bool | None = None,
    plain: bool = False,
    recipe: str | None = None,
    skip_long: bool = False,
    seed: int = 0,
    output: Path | None = None,
    engine: Endpoint | EngineChoice | None = None,
    verifier: Any = None,
) -> dict[str, Any]:
    """Evaluates every model on one suite (or file) under one protocol, prints a table, and returns
    all results. A model is a name, a folder, or a run folder, which stands for its trained model;
    at an endpoint, it is a name that the server knows. The prompt and the verifier are those of the
    training run, if it is known; `verifier` replaces the latter. A setting that is not given is the
    one that the suite's published numbers were measured with, else the default: 4 samples, 1,024
    tokens, temperature 1, top-p 0.95. `output` is by default the run's own `eval` folder if all
    trained models lie in one run, else `runs/eval`.
    """
    said = Settings(samples, budgets, temperature, top_p)
    models = list(models) if isinstance(engine, Endpoint) else _there(models)
    whole = _suite(suite, data, columns or {}, splits)
    asked = prompt_protocol(
        *(models, recipe, plain, thinking, getattr(whole.protocol, "thinking", None)),
        verifier=verifier,
    )
    if data is not None:
        whole = suites.own(
            *(data, *splits),
            columns=columns or {},
            trained_columns=asked.columns,
            trained_choices=asked.choices,
            instructed=asked.instructed,
        )
        languages = _trained_on(asked, languages)
    chosen = whole if data is not None else suites.parts(whole, splits)
    read = suites.read(chosen, languages, data_dir, limit)
    problems = [after(problem, asked.examples) for problem in read]
    settings = said.over(whole.protocol)
    _say_how(whole, settings, asked)
    rest = {"seed": seed, "verifier": asked.verifier, "examples": asked.examples}
    how = protocol(asked.prompt, settings.sampling, settings.budgets, **rest)
    output = output or _output(models)
    _warn(chosen, models, output, trained_by := recipes_of(models))
    folders = {model: output / _folder(model) / chosen.name for model in models}
    trained = _trained(models, problems, chosen.name)
    outcomes = [
        evaluate(
            *(model, problems, chosen.name, how, settings.samples or 0, folder),
            source=_place(chosen, engine),
            splits=chosen.splits,
            aside=chosen.aside,
            trained_on=trained[model],
            skip_long=skip_long,
            engine=engine,
        )
        for model, folder in folders.items()
    ]
    results = [result for outcome in outcomes for result in outcome["results"]]
    show_results(results, chosen.aside)
    _refer(whole, models, trained_by, asked, results)
    compared = selections(folders, chosen, problems, settings.samples or 0, max(how.budgets))
    for told in compared:
        show_selection(told)
    log(f"samples and results: {output}")
    if len(models) > 1:
        log(f"next: opsd compare {shlex.quote(str(output))}")
    took = sum(outcome["seconds"] for outcome in outcomes)
    return {"seconds": took, "results": results, "selections": compared}


def _there(models: Sequence[str]) -> list[str]:
    """The models, with run folders replaced by their trained models. UserError for a missing model,
    before the first one is evaluated."""
    models = [os.path.normpath(trained_model(x)) if Path(x).exists() else x for x in models]
    for model in models:
        adapter_folder(*locate(model))
    return models


def _suite(
    name: str | None, data: str | None, columns: Mapping[str, str], splits: Sequence[str]
) -> Suite:
    """The named suite; for a file of the user's own, a suite with what is known before the file is
    read."""
    if name is not None and data is None:
        if columns:
            raise UserError(f"--column is for --data, a file of your own: {name} has its own")
        return suites.suite(name)
    if data is not None and name is None:
        if len(splits) > 1:
            raise UserError("--split: give one split for a dataset of your own, not several")
        return suites.own(data)
    raise UserError(
        f"name either --suite ({', '.join(suites.SUITES)}; or a suite file) or --data, a file of"
        " your own"
    )


def _say_how(suite: Suite, settings: Settings, asked: PromptProtocol) -> None:
    """Logs how models are prompted, and how this differs from the suite's published protocol."""
    log(asked.said)
    if suite.protocol is None:
        return
    other = deviations(settings, asked.prompt, suite.protocol)
    told = f"not its published protocol: {', '.join(other)}" if other else "its published protocol"
    log(f"{suite.name}: {told} ({suite.protocol.where})")


def _trained_on(asked: PromptProtocol, languages: Sequence[str]) -> Sequence[str]:
    """The languages in which a file of the user's own is read: those that the user names, else
    those that the models were trained on."""
    if languages or not asked.languages:
        return languages
    log(f"languages (those of training): {', '.join(asked.languages)}")
    return asked.languages


def _warn(
    suite: Suite, models: Sequence[str], output: Path, trained_by: Mapping[str, Recipe]
) -> None:
    """Logs what the suite shares with other suites that are evaluated in the same folder, and with
    the data that models were trained on."""
    known = suites.SUITES
    beside = {path.name for model in models for path in (output / _folder(model)).glob("*/")}
    for other in known.values():
        if other.name != suite.name and other.name in beside:
            for line in contamination.shared([suite, other]):
                log(f"contamination: {line}")
    for file, recipe in trained_by.items():
        for line in contamination.named(suite, recipe.data.model_dump(), known):
            log(f"contamination: {suite.name}: {file}: {line}")


def _trained(
    models: Sequence[str], problems: Sequence[Problem], suite: str
) -> dict[str, dict[str, int] | None]:
    """How many problems of each language occur in the prompts of the run in which a model lies, by
    model; logged if there are any. A run is read once for all of its checkpoints."""
    runs = {model: run_folder(model) for model in models}
    several = filter(None, dict.fromkeys(runs.values()))
    counts = {run: contamination.trained_on(problems, run) for run in several}
    asked = Counter(problem.language for problem in problems)
    for run, found in counts.items():
        for language, count in (found or {}).items():
            if count:
                log(
                    f"contamination: {count} of {asked[language]} problems of {suite} {language}"
                    f" occur in the prompts that {run} was trained with"
                )
    return {model: None if run is None else counts[run] for model, run in runs.items()}


def _refer(
    suite: Suite,
    models: Sequence[str],
    trained_by: Mapping[str, Recipe],
    asked: PromptProtocol,
    results: Sequence[Mapping[str, Any]],
) -> None:
    """Prints the recipe's published numbers, and the suite's for the models that were evaluated."""
    own = [number.model_dump() for number in asked.published if number.suite == suite.name]
    bases = [recipe.model.name for recipe in trained_by.values()]
    more = reference(
        suite, [*models, *bases, *filter(None, (base_of(Path(model)) for model in models))]
    )
    show_published(together(own, more), results, suite)
    told = dict.fromkeys(number["model"] for number in suite.printed())
    if told and not more:
        log(f"published numbers on {suite.name} are of other models: {', '.join(told)}")


def _output(models: Sequence[str]) -> Path:
    runs = {run for model in models if (run := run_folder(model)) is not None}
    return runs.pop() / "eval" if len(runs) == 1 else Path("runs/eval")


def _place(suite: Suite, engine: Endpoint | EngineChoice | None) -> str:
    """What identifies samples besides the names of suite and model: what generates them, and the
    path of a file of the user's own, since another file may have the same name."""
    where = f"{engine.place} " if engine and engine.place else ""
    if suite.name in suites.SUITES:
        return where.strip()
    file = Path(suite.source)
    return where + (str(file.resolve()) if file.suffix else f"{suite.source} {suite.split}")


def _folder(model: str) -> str:
    """A model's name as one folder name."""
    return re.sub(r"[^\w.-]+", "_", model.strip("./")) or "model"
