"""Writes the tables of the pages from the code and data: methods, their parts, shipped recipes,
settings, other projects' flags, costs of runs, and what translation gates detect.

    python -m tools.tables

A table is between `<!-- table: NAME -->` and `<!-- end -->`; everything around it is written by
hand. A test fails if a page differs from the output of this script.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, get_args

import yaml
from benchmarks.costs import SETTINGS, estimate
from benchmarks.shapes import SHAPES

from opsd.authors.authors import AnyAuthor
from opsd.cli.languages import listing
from opsd.grade.fidelity import known
from opsd.languages.registry import Language, language
from opsd.methods import FUNCTIONS
from opsd.methods.signals import Signal
from opsd.migrate.sources import Case, Flag, sources
from opsd.objective.credit import AnyCredit, AnySurrogate
from opsd.objective.divergences import AnyDivergence
from opsd.objective.support import AnySupport
from opsd.objective.targets import AnyTarget
from opsd.objective.weighting import AnyWeighting
from opsd.parts import Slot
from opsd.prompts.contexts import AnyContext
from opsd.recipe.content import Sampling
from opsd.recipe.files import shipped
from opsd.recipe.schema import Recipe, load
from opsd.rollout.engines import AnyEngine
from opsd.rollout.horizon import AnyHorizon
from opsd.rollout.sources import AnyRows, AnySource
from opsd.teacher.weights import AnyWeights
from opsd.training.config import UNSUPPORTED, WITHOUT_EFFECT, OPSDConfig
from opsd.translate.gates import measured

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in ("choosing", "config", "languages", "methods", "migrating", "recipes")
    ),
    ROOT / "docs" / "how-to" / "translate.md",
)
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.S)


def methods() -> str:
    """Every method: its name, its docstring's first line, its papers."""
    rows = (
        (f"`{name}`", _first_line(function).partition(": ")[2], _linked(function().paper))
        for name, function in FUNCTIONS.items()
    )
    return _table(("name", "what it is", "paper"), rows)


def recipes() -> str:
    """Every shipped recipe with its numbers, under the module that defines its method."""
    loaded = {name: load(name) for name in sorted(shipped())}
    sections: dict[str, list[str]] = {}
    for method, function in FUNCTIONS.items():
        heading = _first_line(sys.modules[function.__module__])
        own = [name for name, recipe in loaded.items() if recipe.method.name == method]
        sections.setdefault(heading, []).extend(own)
    columns = ("recipe", "model", "learning rate", "steps", "tokens", "printed")
    return "\n".join(
        f"### {heading}\n\n{_table(columns, (_setting(name, loaded[name]) for name in names))}"
        for heading, names in sections.items()
    )


def parts(slot: Slot) -> str:
    """The shipped parts of a slot: the name in a recipe, and the first paragraph of the
    docstring."""
    return _table(("type", "what it is"), map(_part, slot.shipped))


def config() -> str:
    """The fields of OPSDConfig that are its own, or whose default differs from the Trainer's."""
    own = [field for field in fields(OPSDConfig) if field.name in OPSDConfig.__annotations__]
    rows = (
        (
            f"`{'sampling' if f.name in Sampling.model_fields else 'train'}.{f.name}`",
            f"`{f.type}`",
            f"`{f.default!r}`",
            f.metadata["help"],
        )
        for f in own
    )
    return _table(("in a recipe", "type", "default", "what it is"), rows)


def reasons(given: Mapping[str, str]) -> str:
    """Fields of TrainingArguments, and why they are refused or have no effect."""
    rows = ((", ".join(f"`{n}`" for n in names.split()), why) for names, why in given.items())
    return _table(("field", "why"), rows)


def costs() -> str:
    """Memory and time of OPSD's published setting on one GPU, by the formulas of the estimates."""
    (published, *_) = SETTINGS
    rows = []
    for name in ("Qwen3-1.7B", "Qwen3-4B", "Qwen3-8B"):
        found = estimate(name, published, 1)
        weights = SHAPES[name].parameters / 1e9
        rows.append(
            (
                name,
                f"{max(found['learning_gb'], found['writing_gb']):.0f} GB",
                f"{20 * weights:.0f} GB in all",
                f"{found['hours']:.1f}",
            )
        )
    return _table(("model", "LoRA", "all weights, frozen teacher", "hours on one H100, LoRA"), rows)


def languages() -> str:
    """Every language: where it is used, and what is known about it."""
    rows = (
        (
            f"`{row['code']}` {row['name']}",
            f"{row['script']}{', right to left' if row['direction'] == 'rtl' else ''}",
            ", ".join(row["used_in"]),
            "yes" if row["verified"] else "",
            _numerals(language(row["code"])),
            "yes" if row["code"] in known() else "",
            "yes" if row["code"] in measured() else "",
        )
        for row in listing()
    )
    columns = ("language", "script", "used in", "read", "numerals", "told apart", "translations")
    return _table(columns, rows)


def _numerals(language: Language) -> str:
    if language.code == "eng":
        return "all"
    if language.script in ("Hans", "Jpan"):
        return "characters"
    return f"0 to {max(language.numerals)}" if language.numerals else ""


def translation_gates() -> str:
    """The fractions of corrupted and of good pairs that the gates of translations reject."""
    stored = json.loads((ROOT / "benchmarks/results/translation_gates.json").read_text("utf-8"))
    rows = [
        (
            f"`{row['name']}`" if row["measure"] == "gate" else "all together",
            f"{row['precision']:.3f}",
            "" if row["ratio"] is None else f"{row['recall']:.3f}",
            f"{row['good_rejected']:,} of {row['good']:,}",
            f"{row['spoiled_rejected']:,} of {row['spoiled']:,}",
        )
        for row in stored["rows"]
        if row["measure"] in ("together", "gate")
    ]
    return _table(
        ("gate", "precision", "recall", "good ones rejected", "spoiled ones rejected"), rows
    )


def flags(name: str) -> str:
    """What a project's flags become, except those that it shares with the project it extends."""
    own = sources()[name]
    shared = {
        flag: rule for parent in own.extends for flag, rule in sources()[parent].flags.items()
    }
    rows: dict[str, list[str]] = {}
    for flag, rule in own.flags.items():
        if shared.get(flag) != rule:
            rows.setdefault(_becomes(rule), []).append(f"`{flag}`")
    return _table(("flag", "here"), ((", ".join(names), told) for told, names in rows.items()))


def _becomes(rule: Flag) -> str:
    default = "" if rule.default in (None, "") else f"; not given: `{_inline(rule.default)}`"
    told = [text for case in rule.cases if (text := _case(case, len(rule.cases) > 1))]
    return ("; ".join(told) or "read with other flags") + default


def _case(case: Case, several: bool) -> str:
    kinds = {"did nothing there": case.dead, "always so here": case.always, "none": case.none}
    told = "".join(f"{kind}: {why}" for kind, why in kinds.items() if why is not None)
    if case.to is not None:
        told = f"`{case.to}`{_CHANGES.get(case.change, '')}"
        told += "" if case.value is None else f": `{_inline(case.value)}`"
        each = [
            f"{_inline(key)}: `{_inline(value)}`"
            for key, value in case.values.items()
            if value is not None
        ]
        told += f" ({', '.join(each)})" if each else ""
    if case.why is not None:
        told += f" ({case.why})" if told else case.why
    if not told:
        return ""
    wanted = ", ".join(f"`{flag}: {_inline(value)}`" for flag, value in case.when.items())
    return f"where {wanted}: {told}" if wanted else f"else {told}" if several else told


_CHANGES = {"complement": ", 1 minus it", "count": ", their number", "lower": ", in small letters"}


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    text = text.removesuffix("\n").removesuffix("\n...")
    return text if "\n" not in text else json.dumps(value, ensure_ascii=False)


def slot_of(annotated: Any) -> Slot:
    """The slot of a field's type such as `AnyTarget`."""
    (slot,) = (found for found in get_args(annotated) if isinstance(found, Slot))
    return slot


_SLOTS = (
    *(AnyContext, AnyAuthor, AnyWeights, AnySupport, AnyTarget, AnyDivergence, Signal, AnyCredit),
    *(AnySurrogate, AnyWeighting, AnySource, AnyRows, AnyHorizon, AnyEngine),
)
TABLES: dict[str, Callable[[], str]] = {
    "methods": methods,
    "recipes": recipes,
    "config": config,
    "unsupported": partial(reasons, UNSUPPORTED),
    "without_effect": partial(reasons, WITHOUT_EFFECT),
    "costs": costs,
    "languages": languages,
    "translation_gates": translation_gates,
    **{f"migrate_{name}": partial(flags, name) for name in sources()},
    **{slot.name: partial(parts, slot) for slot in map(slot_of, _SLOTS)},
}
"""The function that writes each table, by the name in its marker."""


def filled(text: str) -> str:
    """The text of a page with its tables up to date. Raises KeyError for an unknown table."""
    return _TABLE.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", text)


def _part(cls: type) -> tuple[str, str]:
    page = cls.__module__.split(".")[1]
    link = f"[`{cls.type}`](reference/{page}.md#{cls.__name__.lower()})"
    return link, " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


def _setting(name: str, recipe: Recipe) -> tuple[str, ...]:
    train = recipe.train
    epochs = train.get("max_steps", -1) < 0
    steps = f"{train['num_train_epochs']:g} epochs" if epochs else str(train["max_steps"])
    sampled = recipe.method.source.phases
    tokens = recipe.sampling.max_completion_length if sampled else train["max_length"]
    return (
        f"[`{name}`](../recipes/{name}.yaml)",
        recipe.model.name.removeprefix("Qwen/"),
        f"{train['learning_rate']:g}",
        steps,
        f"{tokens:,}",
        "; ".join(_printed(recipe)) or "ours",
    )


def _printed(recipe: Recipe) -> Iterator[str]:
    """The published numbers; those of one metric from one source are grouped."""
    found: dict[str, list[str]] = {}
    for n in recipe.published:
        what = " ".join(filter(None, [n.suite, n.split, n.language]))
        budget = f" at {n.budget:,} tokens" if n.budget else ""
        found.setdefault(f"{n.metric}{budget}, {n.where}", []).append(f"{what} **{n.value}**")
    for where, values in found.items():
        yield f"{', '.join(values)} ({where})"


def _first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").splitlines()[0].rstrip(".")


def _linked(paper: str) -> str:
    return re.sub(r"arXiv (\d+\.\d+(?:v\d+)?)", r"[\1](https://arxiv.org/abs/\1)", paper)


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(columns)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(_escaped(x) for x in row)} |\n" for row in lines)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def main() -> None:
    """Write the pages."""
    for page in PAGES:
        page.write_text(filled(page.read_text("utf-8")), "utf-8")
        print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
