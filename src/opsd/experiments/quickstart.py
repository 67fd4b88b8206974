"""The quickstart: base, GRPO and COPSD on the built-in model, at equal generated tokens.

Every number is computed in the run. Arms are independent: they run in worker processes, one per
core with one thread each, and report their progress to the parent, which itself loads no model.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from opsd.console import log
from opsd.experiments import arms
from opsd.experiments.leftovers import RUN, remove
from opsd.experiments.pool import run_all
from opsd.grade.intervals import estimate
from opsd.miniature.lexicon import LANGUAGES
from opsd.runs.disk import writing
from opsd.runs.files import write_atomically
from opsd.types import UserError

METHODS = ("base", "grpo", "copsd")
CONTROL = "copsd_shuffled"
_MARK = "quickstart.json"
_OWN = rf"({_MARK}|result\.json|samples\.jsonl|report\.html|[a-z]{{3}}-\w+-seed\d+/{RUN})"


@dataclass(frozen=True)
class Plan:
    """Which arms run, and on how many held-out problems; `tokens` are those generated in training
    per arm; `control` are the languages in which the control runs, too, with the first seed."""

    languages: tuple[str, ...]
    seeds: tuple[int, ...]
    problems: int
    tokens: int = 22_000
    control: tuple[str, ...] = ()


SHORT = Plan(languages=("swa",), seeds=(0,), problems=60)
FULL = Plan(
    languages=tuple(code for code in LANGUAGES if code != "eng"),
    seeds=(0, 1, 2),
    problems=200,
    control=("swa",),
)


def run(output: Path, plan: Plan) -> dict[str, Any]:
    """Runs all arms into `output`, prints a table and sample rollouts, and writes the report.

    Returns {"seconds", "results": [...], "control": [...]}, with a row per language, method and
    seed.
    """
    start = time.perf_counter()
    _clear(output)
    with writing(output):
        outcomes = run_arms(list(_arms(plan, output)))
    rows = [outcome.row() for outcome in outcomes]
    result = {
        "seconds": round(time.perf_counter() - start, 1),
        "results": [row for row in rows if row["method"] in METHODS],
        "control": [row for row in rows if row["method"] == CONTROL],
    }
    write_atomically(output / "result.json", json.dumps(result, indent=1))
    samples = [sample for outcome in outcomes for sample in outcome.samples]
    lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    write_atomically(output / "samples.jsonl", lines)

    from opsd.report.page import write_report

    page = write_report([output], output / "report.html")
    result["seconds"] = round(time.perf_counter() - start, 1)
    write_atomically(output / "result.json", json.dumps(result, indent=1))
    console = Console()
    console.print(_table(outcomes))
    _show(console, samples, plan.languages[0])
    log(f"{result['seconds']:.0f} s; full report, with curves: {page}")
    return result


def _clear(output: Path) -> None:
    """Removes an earlier quickstart; refuses a folder with anything else in it."""
    if output.exists() and any(output.iterdir()):
        if not any(output.glob(f"{_MARK}*")):  # or its incomplete file, after a kill
            raise UserError(f"{output} exists and is not a quickstart; choose another --output")
        remove(output, _OWN)
    write_atomically(output / _MARK, "{}")


def _arms(plan: Plan, output: Path) -> Iterator[arms.Arm]:
    """Yields the arms, the longest first, so that no core idles at the end."""

    def arm(language: str, method: str, seed: int) -> arms.Arm:
        return arms.Arm(language, method, seed, plan.tokens, plan.problems, str(output))

    for language in plan.control:
        yield arm(language, CONTROL, plan.seeds[0])
    for method in ("copsd", "grpo", "base"):
        for language, seed in itertools.product(plan.languages, plan.seeds):
            yield arm(language, method, seed)


def run_arms(planned: Sequence[arms.Arm]) -> list[arms.ArmScores]:
    """Runs the arms, and returns their outcomes, sorted as in the table."""
    outcomes = [outcome for _, outcome in run_all(planned, arms.run)]
    order = [*METHODS, CONTROL]
    return sorted(outcomes, key=lambda o: (o.arm.language, order.index(o.arm.method), o.arm.seed))


def _table(outcomes: Sequence[arms.ArmScores]) -> Table:
    """A row per language and method: means over seeds, intervals over problems and seeds."""
    table = Table(title="held-out problems, after training", box=None, padding=(0, 2, 0, 0))
    for heading in ("language", "method", "avg@4", "95 %", "pass@4", "format", "tokens"):
        table.add_column(heading, no_wrap=True)
    seen = dict.fromkeys((o.arm.language, o.arm.method) for o in outcomes)
    for language, method in seen:
        group = [o for o in outcomes if (o.arm.language, o.arm.method) == (language, method)]
        low, high = estimate([[o.averages for o in group]]).interval
        rows = [o.row() for o in group]
        table.add_row(
            language,
            method,
            f"{fmean(r['avg@4'] for r in rows):.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{fmean(r['pass@4'] for r in rows):.3f}",
            f"{fmean(r['format_rate'] for r in rows):.3f}",
            f"{round(fmean(r['generated_tokens'] for r in rows)):,}",
        )
    return table


def _show(console: Console, samples: Sequence[dict[str, Any]], language: str) -> None:
    """Prints one problem's completions before and after training: by the base model, and by the
    trained ones."""
    own = [s for s in samples if s["language"] == language]
    changed = {s["problem"] for s in own if s["method"] == "copsd" and s["correct"]} & {
        s["problem"] for s in own if s["method"] == "base" and not s["correct"]
    }
    shown = next((s["problem"] for s in own if s["problem"] in changed), own[0]["problem"])
    for sample in own:
        if sample["problem"] == shown and sample["method"] in METHODS:
            if sample["method"] == "base":
                console.print(f"\n{sample['prompt']}  (answer {sample['answer']})", markup=False)
            verdict = "right" if sample["correct"] else "wrong"
            line = f"  {sample['method']:6} {verdict}: {sample['completion']}"
            console.print(line, markup=False, highlight=False)
    console.print()
