"""Run folders as values: what training and evaluation have stored so far.

A run may still be running, or have been killed: only `metrics.jsonl` must exist and contain a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opsd.data.filters import languages_of
from opsd.languages.registry import codes, language
from opsd.runs.evaluation_files import RESULT, read
from opsd.runs.files import distinct_names
from opsd.runs.folder import run_of
from opsd.runs.json_files import document, finite, mapping, number, rows, sequence
from opsd.types import UserError
from opsd.validation import mapping as yaml_mapping

Row = Mapping[str, Any]

_PART_OF_A_QUICKSTART = re.compile(r"(?P<language>[^-]+)-(?P<method>.+)-seed(?P<seed>\d+)")


@dataclass(frozen=True)
class Score:
    """One evaluation: shares between 0 and 1, None for those that were not measured.

    `where` names what was measured (a suite and its budget, the dev split, ...); `metric` and
    `passing` are the names of the two accuracies, such as `avg@4` and `pass@4`; `scores` are the
    values of `metric` on single problems, in an order that seeds and methods share.
    """

    where: str
    language: str
    method: str
    metric: str
    passing: str
    average: float | None
    interval: tuple[float, float] | None
    solved: float | None
    format_rate: float | None
    generated_tokens: int | None
    seed: int | None = None
    model: str = ""
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Run:
    """One training run. `train` and `dev` are the lines of `metrics.jsonl`, in order."""

    path: Path
    label: str
    method: str
    language: str
    seed: int | None
    recipe: Row
    recipe_text: str
    environment: Row
    train: tuple[Row, ...]
    dev: tuple[Row, ...]
    scores: tuple[Score, ...]
    # Evaluations of its model, and of others in its folder, as they are stored.
    evaluations: tuple[Row, ...] = ()
    # What became of the data's rows (`data.json`).
    account: Row = field(default_factory=dict)
    # Whether the folder's name marks the run as one of several that are compared by method.
    compared: bool = False

    @property
    def results(self) -> tuple[Row, ...]:
        """The trained model's own evaluations."""
        return tuple(row for row in self.evaluations if row.get("model") != self.model)

    @property
    def steps(self) -> int:
        """The optimizer step of the last log line."""
        return int(number((self.train or self.dev)[-1], "step") or 0)

    @property
    def planned_steps(self) -> int | None:
        """Optimizer steps that the recipe sets."""
        steps = mapping(self.recipe.get("train")).get("max_steps")
        return steps if isinstance(steps, int) and steps > 0 else None

    @property
    def unfinished(self) -> bool:
        """Whether the run has not yet reached the recipe's limit on steps or on tokens, whichever
        ends the run first."""
        budget = number(mapping(self.recipe.get("train")), "max_generated_tokens")
        if budget and (self.generated_tokens or 0) >= budget:
            return False
        return self.planned_steps is not None and self.steps < self.planned_steps

    @property
    def generated_tokens(self) -> int | None:
        """Tokens that the run has sampled for training so far."""
        counts = [n for n in (number(row, "generated_tokens") for row in self.train) if n]
        return int(counts[-1]) if counts else None

    @property
    def model(self) -> str:
        """The model that the run started from, as its recipe names it."""
        return _model_name(self.environment, self.recipe)


@dataclass(frozen=True)
class Comparison:
    """A folder in which several methods were compared with the model they started from."""

    path: Path
    seconds: float | None
    scores: tuple[Score, ...]
    samples: tuple[Row, ...]


@dataclass(frozen=True)
class Evidence:
    """Everything that a report is built from."""

    runs: tuple[Run, ...]
    comparisons: tuple[Comparison, ...]


def load_runs(paths: Sequence[Path]) -> Evidence:
    """Reads run folders, and folders that contain run folders.

    Raises UserError for a folder that is neither, and for a run that has not logged anything.
    """
    runs: list[Run] = []
    comparisons: list[Comparison] = []
    if not paths:
        raise UserError("no run to report on: name at least one run folder")
    for path in dict.fromkeys(run_of(Path(path)) for path in paths):
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; a report needs the folder of a run")
        if (path / "metrics.jsonl").exists():
            runs.append(_run(path))
            continue
        inside = [_run(folder) for folder in _runs_inside(path)]
        if not inside:
            raise UserError(
                f"{path} is not a run folder: neither it nor a folder in it contains a"
                " metrics.jsonl with a line. Name the output folder of `opsd train` or"
                " `opsd quickstart`"
            )
        runs += inside
        comparisons += _comparison(path)
    return Evidence(tuple(_distinctly_labelled(runs)), tuple(comparisons))


def language_name(code: str) -> str:
    """`Yoruba` for `yor`; a code that the package does not know stays a code."""
    return language(code).name if code in codes() else code


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _runs_inside(path: Path) -> Iterator[Path]:
    """Run folders in a folder; those that have not logged a line yet are left out."""
    for folder in sorted(path.iterdir()):
        metrics = folder / "metrics.jsonl"
        if metrics.is_file() and any(rows(metrics)):
            yield folder


def _run(path: Path) -> Run:
    lines = list(rows(path / "metrics.jsonl"))
    train = tuple(line for line in lines if "loss" in line)
    dev = tuple(line for line in lines if "eval_avg@k" in line)
    if not train and not dev:
        raise UserError(f"{path / 'metrics.jsonl'} is empty: the run has not logged a step yet")
    written = path / "recipe.yaml"
    recipe = yaml_mapping(written) if written.exists() else {}
    environment = _document(path / "env.json")
    named = _PART_OF_A_QUICKSTART.fullmatch(path.resolve().name)
    method = recipe.get("method", "")
    method = str(mapping(method).get("name", "") if isinstance(method, Mapping) else method)
    seed = environment.get("seed", mapping(recipe.get("train")).get("seed"))
    account = _document(path / "data.json")
    tongue = ", ".join(languages_of(mapping(recipe.get("data")), account))
    if named is not None:
        # The folder's name says more than the recipe: variants of a method share the method's name.
        method, tongue, seed = named["method"], named["language"], int(named["seed"])
    seed = _seed(seed)
    base = _model_name(environment, recipe)
    folders = sorted({file.parent for file in path.glob(f"eval/**/{RESULT}")})
    evaluated = [row for folder in folders for row in read(folder)]
    return Run(
        path=path,
        label=path.name,
        method=method,
        language=tongue,
        seed=seed,
        recipe=recipe,
        recipe_text=written.read_text("utf-8") if written.exists() else "",
        environment=environment,
        train=train,
        dev=dev,
        scores=(
            *_suite_scores(evaluated, base, method, seed),
            *_last_dev(train, dev, method, tongue, seed),
        ),
        evaluations=tuple(evaluated),
        account=account,
        compared=named is not None,
    )


def _model_name(environment: Row, recipe: Row) -> str:
    named = environment.get("model") or recipe.get("model") or ""
    if isinstance(named, Mapping):
        named = named.get("name") or named.get("path") or ""
    return str(named)


def _suite_scores(rows: Sequence[Row], base: str, method: str, seed: int | None) -> Iterator[Score]:
    """Yields the scores of evaluations in the run's folder: of its model, of the one it started
    from (the method `base`, without any training), and of others that it was compared with."""
    trained = {row.get("model") for row in rows} - {base}
    for row in rows:
        if row.get("model") == base:
            yield _score({**row, "generated_tokens": 0}, _suite(row, False), "base", seed)
        else:
            yield _score(row, _suite(row, len(trained) > 1), method, seed)


def _suite(row: Row, name_model: bool) -> str:
    """What was measured, in words: `afrimgsm, corrected labels, 2,048 tokens`. Upstream labels are
    not mentioned."""
    parts = [str(row.get("suite", "suite"))]
    labels = row.get("labels")
    if labels and labels != "upstream":
        parts.append(f"{', '.join(labels) if isinstance(labels, list) else labels} labels")
    budget = number(row, "budget")
    if budget is not None:
        parts.append(f"{budget:,.0f} tokens")
    if name_model:
        parts.append(str(row.get("model")))
    return ", ".join(parts)


def _last_dev(
    train: Sequence[Row], dev: Sequence[Row], method: str, tongue: str, seed: int | None
) -> Iterator[Score]:
    """The last scores on the dev split, which come without an interval."""
    if not dev:
        return
    last = dev[-1]
    step = int(number(last, "step") or 0)
    spent = [row for row in train if (number(row, "step") or 0) <= step]
    tokens = [number(row, "generated_tokens") for row in spent]
    yield Score(
        where=f"dev split, step {step}",
        language=tongue,
        method=method,
        metric="avg@k",
        passing="pass@k",
        average=number(last, "eval_avg@k"),
        interval=None,
        solved=number(last, "eval_pass@k"),
        format_rate=number(last, "eval_format_rate"),
        generated_tokens=int(tokens[-1]) if tokens and tokens[-1] is not None else None,
        seed=seed,
    )


def _comparison(path: Path) -> list[Comparison]:
    """What a quickstart measured; empty if it has not finished."""
    if not (path / RESULT).exists():
        return []
    samples = path / "samples.jsonl"
    content = document(path / RESULT)
    return [
        Comparison(
            path=path,
            seconds=number(content, "seconds"),
            scores=tuple(
                _score(row, "test problems", str(row.get("method", "")), _seed(row.get("seed")))
                for row in _compared(content)
            ),
            samples=tuple(rows(samples)) if samples.exists() else (),
        )
    ]


def _score(row: Row, where: str, method: str, seed: int | None) -> Score:
    metric = next((name for name in row if name.startswith("avg@")), "avg@k")
    passing = next((name for name in row if name.startswith("pass@")), "pass@k")
    samples = row.get("samples")
    names = [
        name.replace("@k", f"@{samples}") if isinstance(samples, int) else name
        for name in (metric, passing)
    ]
    tokens = number(row, "generated_tokens")
    return Score(
        where=where,
        language=str(row.get("language", "")),
        method=method,
        metric=names[0],
        passing=names[1],
        average=number(row, metric),
        interval=_ends(row.get("interval")),
        solved=number(row, passing),
        format_rate=number(row, "format_rate"),
        generated_tokens=None if tokens is None else int(tokens),
        seed=seed,
        model=str(row.get("model", "")),
        scores=_numbers(row.get("scores")),
    )


def _ends(interval: Any) -> tuple[float, float] | None:
    """The two ends of an interval; None for any other value."""
    ends = _numbers(interval)
    return (ends[0], ends[1]) if len(ends) == 2 else None


def _seed(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _numbers(values: Any) -> tuple[float, ...]:
    """A list of finite numbers; empty for any other value."""
    found = [finite(value) for value in sequence(values)]
    return () if None in found else tuple(v for v in found if v is not None)


def _compared(content: Row) -> list[Row]:
    """A quickstart's rows, and those of its control experiment."""
    lists = (sequence(content.get(name)) for name in ("results", "control"))
    return [row for found in lists for row in found if isinstance(row, Mapping)]


def _document(file: Path) -> Row:
    return document(file) if file.exists() else {}


def _distinctly_labelled(runs: list[Run]) -> Iterator[Run]:
    """Yields the runs with distinct labels: if folders have the same name, parent folders are
    added."""
    labels = distinct_names([run.path for run in runs], deepest=3)
    for run, label in zip(runs, labels, strict=True):
        yield replace(run, label=label)
