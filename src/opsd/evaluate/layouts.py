"""Samples and scores in the layouts of lm-evaluation-harness (0.4) and lighteval (0.13), for tools
that read these. As in those projects, the labels are the upstream ones."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from opsd.console import log
from opsd.evaluate.results import METRICS, judged, refuse_missing
from opsd.evaluate.samples import SAMPLES, Row, claims, sampled_rows
from opsd.runs.environment import VERSION
from opsd.runs.files import write_atomically
from opsd.suites.labels import UPSTREAM
from opsd.types import UserError


@dataclass(frozen=True)
class Doc:
    """One problem of a task: its samples as stored, and its scores by metric."""

    number: int
    rows: Sequence[Row]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Task:
    """One model's evaluation on a suite, or on one split of it, in one language within one budget.
    Splits are tasks of their own, since these tools have no weights for a mean over them."""

    name: str
    suite: str
    language: str
    budget: int
    claim: Row
    docs: Sequence[Doc]

    def score(self, metric: str) -> float:
        return mean(doc.scores[metric] for doc in self.docs)

    def error(self, metric: str) -> float:
        """Standard error of the mean over problems; 0 for a single problem."""
        values = [doc.scores[metric] for doc in self.docs]
        return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0

    @property
    def samples(self) -> int:
        return len(self.docs[0].rows)


def convert(folders: Sequence[Path], layout: str, output: Path) -> list[Path]:
    """Writes every evaluation in `folders`, at any depth, in another tool's layout, and returns the
    paths of the files. Raises UserError, before the first is written, for an unknown layout, and
    for evaluations that are missing, not finished, or duplicates."""
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout '{layout}'; known: {', '.join(LAYOUTS)}")
    found = {place.resolve(): claim for folder in folders for place, claim in claims(folder)}
    by_model: dict[str, dict[Path, list[Task]]] = defaultdict(dict)
    for place, claim in found.items():
        by_model[claim["model"]][place] = list(tasks(place, claim))
    for model, made in by_model.items():
        _refuse_twice(model, made)
    written = []
    for model, made in by_model.items():
        newest = max((place / SAMPLES).stat().st_mtime for place in made)
        date = datetime.fromtimestamp(newest, UTC).replace(tzinfo=None).isoformat()
        every = [task for own in made.values() for task in own]
        written += LAYOUTS[layout](model, every, output, date.replace(":", "-"))
    log(f"{len(written)} files in {output}")
    return written


def _refuse_twice(model: str, made: Mapping[Path, Sequence[Task]]) -> None:
    homes: dict[str, Path] = {}
    for place, own in made.items():
        for task in own:
            other = homes.setdefault(task.name, place)
            if other != place:
                raise UserError(
                    f"{other} and {place} both contain {task.name} of {model}; convert them one at"
                    " a time, each to its own --output"
                )


def tasks(folder: Path, claim: Row) -> Iterator[Task]:
    """Yields a task per language, split and budget; the budget is in its name only if there are
    several. UserError for an evaluation that is not finished."""
    budgets = claim["protocol"]["budgets"]
    strata: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(dict)
    for row in sampled_rows(folder):
        stratum = row["language"], str(row.get("split", ""))
        strata[stratum].setdefault(row["problem"], []).append(row)
    there: Counter[str] = Counter()
    for (language, _), problems in strata.items():
        there[language] += sum(map(len, problems.values()))
    refuse_missing(folder, there)
    for (language, split), problems in strata.items():
        counts = {len(rows) for rows in problems.values()}
        if len(counts) > 1:
            raise UserError(
                f"{folder}: {' '.join(filter(None, (language, split)))} has {min(counts)} samples"
                f" of one problem and {max(counts)} of another; finish the evaluation:"
                " `opsd evaluate` continues where it stopped"
            )
        for budget in budgets:
            docs = [_doc(i, rows, budget) for i, rows in enumerate(problems.values())]
            suite = docs[0].rows[0]["suite"]
            within = str(budget) if len(budgets) > 1 else ""
            name = _safe("_".join(filter(None, (suite, language, split, within))))
            yield Task(name, suite, language, budget, claim, docs)


def _safe(name: str) -> str:
    """A name that is safe as one component of a path."""
    made = re.sub(r'["<>:/|\\?*\[\]]+', "__", name)
    return "__" if made in ("", ".", "..") else made


def _doc(number: int, rows: Sequence[Row], budget: int) -> Doc:
    ordered = sorted(rows, key=lambda row: row["sample"])
    group = [x for row in ordered if (x := judged(row, budget, UPSTREAM)) is not None]
    return Doc(number, ordered, {name: score(group) for name, score in METRICS.items()})


def _lm_eval(model: str, made: Sequence[Task], output: Path, date: str) -> list[Path]:
    folder = output / _safe(model)
    content = {
        "results": {
            task.name: {"alias": task.name}
            | {f"{name},none": task.score(name) for name in METRICS}
            | {f"{name}_stderr,none": task.error(name) for name in METRICS}
            for task in made
        },
        "group_subtasks": {task.name: [] for task in made},
        "configs": {task.name: _configuration(task) for task in made},
        "versions": {task.name: 0 for task in made},
        "n-shot": {task.name: 0 for task in made},
        "higher_is_better": {task.name: dict.fromkeys(METRICS, True) for task in made},
        "n-samples": {
            task.name: {"original": len(task.docs), "effective": len(task.docs)} for task in made
        },
        "config": {"model": "opsd", "model_args": f"pretrained={model}", "limit": None},
        "date": date,
        "model_source": "opsd",
        "model_name": model,
        "model_name_sanitized": folder.name,
        "opsd_version": VERSION,
    }
    written = [_json(folder / f"results_{date}.json", content)]
    for task in made:
        lines = (json.dumps(_lm_eval_row(task, doc), ensure_ascii=False) for doc in task.docs)
        path = folder / f"samples_{task.name}_{date}.jsonl"
        write_atomically(path, "".join(f"{line}\n" for line in lines))
        written.append(path)
    return written


def _configuration(task: Task) -> dict[str, Any]:
    sampling = task.claim["protocol"]["sampling"]
    options = {name: sampling[name] for name in ("temperature", "top_p", "top_k", "min_p")}
    return {
        "task": task.name,
        "dataset_path": task.suite,
        "dataset_name": task.language,
        "output_type": "generate_until",
        "repeats": task.samples,
        "num_fewshot": 0,
        "generation_kwargs": {
            **options,
            "do_sample": options["temperature"] > 0,
            "max_gen_toks": task.budget,
        },
    }


def _lm_eval_row(task: Task, doc: Doc) -> dict[str, Any]:
    first = doc.rows[0]
    about = {"question": first["prompt"], "answer": first["answer"]}
    completions = [row["completion"] for row in doc.rows]
    options = json.dumps(_configuration(task)["generation_kwargs"])
    return {
        "doc_id": doc.number,
        "doc": about,
        "target": first["answer"],
        "arguments": {"gen_args_0": {"arg_0": first["prompt"], "arg_1": options}},
        "resps": [completions],
        "filtered_resps": [
            [row["budgets"][str(task.budget)].get("said") or "" for row in doc.rows]
        ],
        "filter": "none",
        "metrics": list(METRICS),
        "doc_hash": _hash(json.dumps(about, ensure_ascii=False)),
        "prompt_hash": _hash(first["prompt"]),
        "target_hash": _hash(first["answer"] or ""),
        **doc.scores,
    }


def _lighteval(model: str, made: Sequence[Task], output: Path, date: str) -> list[Path]:
    from datasets import Dataset

    name = "/".join(_safe(part) for part in model.split("/") if part not in ("", ".")) or "__"
    scores = {
        _lighteval_name(task): {metric: task.score(metric) for metric in METRICS}
        | {f"{metric}_stderr": task.error(metric) for metric in METRICS}
        for task in made
    }
    every = {key: mean(row[key] for row in scores.values()) for key in next(iter(scores.values()))}
    content = {
        "config_general": {"model_name": model, "model_config": {"model_name": model}},
        "results": {**scores, "all": every},
        "versions": dict.fromkeys(scores, VERSION),
        "config_tasks": {
            _lighteval_name(task): _configuration(task) | {"name": task.name} for task in made
        },
        "summary_tasks": {},
        "summary_general": {},
    }
    written = [_json(output / "results" / name / f"results_{date}.json", content)]
    for task in made:
        folder = output / "details" / name / date
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"details_{_lighteval_name(task)}_{date}.parquet"
        part = path.with_suffix(".part")
        Dataset.from_list([_lighteval_row(task, doc) for doc in task.docs]).to_parquet(part)
        part.replace(path)
        written.append(path)
    return written


def _lighteval_name(task: Task) -> str:
    return f"{task.name}|0"


def _lighteval_row(task: Task, doc: Doc) -> dict[str, Any]:
    first = doc.rows[0]
    asked = {"query": first["prompt"], "choices": [first["answer"] or ""], "gold_index": 0}
    return {
        "doc": asked | {"task_name": _lighteval_name(task), "id": first["problem"]},
        "metric": dict(doc.scores),
        "model_response": {
            "input": first["prompt"],
            "text": [row["completion"] for row in doc.rows],
        },
    }


LAYOUTS: dict[str, Callable[[str, Sequence[Task], Path, str], list[Path]]] = {
    "lm-eval": _lm_eval,
    "lighteval": _lighteval,
}


def _json(path: Path, content: Mapping[str, Any]) -> Path:
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False))
    return path


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
