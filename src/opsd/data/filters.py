"""Which rows are trained on, and an account of those that are not."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from opsd.data.columns import wide_column
from opsd.data.rows import Row
from opsd.languages.registry import language
from opsd.types import Problem, UserError

Limit = Annotated[int, Field(gt=0)]


class Filters(BaseModel):
    """Rows to leave out. Each one is counted under its reason.

    `require` names columns that must be true (`correct` of OpenThoughts; `{language}` stands for
    the language as the recipe writes it). `only` gives the allowed values of columns
    (`details.level: [L3]`; a dot leads into a nested column). `translation_ok` drops rows with a
    column `problem_<language>_ok` that is not true. `longest` limits `prompt` or a privileged text,
    by its name, in characters. `answered` drops rows without an answer, `complete` rows in which a
    text that `columns` names is missing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    require: tuple[str, ...] = ()
    only: dict[str, tuple[str | int | bool, ...]] = Field(default_factory=dict)
    translation_ok: bool = True
    longest: dict[str, Limit] = Field(default_factory=dict)
    answered: bool = False
    complete: bool = False

    def row_fault(self, row: Row, lang: str, columns: dict[str, str], where: str) -> str | None:
        """Why a row is left out before it is read as a problem, or None."""
        for column in self.require:
            if column not in row:
                have = ", ".join(map(str, row))
                raise UserError(f"{where}: filters.require: no column '{column}'; columns: {have}")
            if not _true(row[column]):
                return f"'{column}' is not true"
        for column, values in self.only.items():
            value = _nested(row, column, where)
            if str(value) not in map(str, values):
                return f"'{column}' is {str(value)!r}"
        if self.translation_ok:
            wide = wide_column(row, lang)
            if wide is not None and not _true(row.get(f"{wide}_ok", True)):
                return f"'{wide}_ok' is not true"
        if self.complete:
            for name, column in columns.items():
                if not str(row.get(column) or "").strip():
                    return f"no {name}"
        return None

    def problem_fault(self, problem: Problem, where: str) -> str | None:
        """Why a problem is left out, or None."""
        if self.answered and not problem.answer:
            return "no answer"
        for name, limit in self.longest.items():
            if name != "prompt" and name not in problem.privileged:
                have = ", ".join(["prompt", *problem.privileged])
                raise UserError(f"{where}: filters.longest: no text '{name}'; texts: {have}")
            text = problem.text if name == "prompt" else problem.privileged[name]
            if len(text) > limit:
                return f"{name} longer than {limit:,} characters"
        return None


def _nested(row: Row, column: str, where: str) -> Any:
    """A cell; if the name has dots, a value nested in it."""
    value: Any = row
    for name in (column,) if column in row else column.split("."):
        if not isinstance(value, Mapping) or name not in value:
            have = ", ".join(map(str, row))
            raise UserError(f"{where}: filters.only: no column '{column}'; columns: {have}")
        value = value[name]
    return value


def _true(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "1", "1.0", "yes")


def languages_of(data: Mapping[str, Any], account: Mapping[str, Any]) -> list[str]:
    """The languages of a run's problems, from its recipe's `data` and its `data.json`: those that
    `data.json` counts, else those that the recipe names, as it spells them."""
    counted, asked = account.get("kept"), data.get("language")
    if isinstance(counted, Mapping) and counted:
        return [*counted]
    listed = asked if isinstance(asked, list | tuple) else [asked]
    return [str(x) for x in listed if x]


@dataclass
class DataReport:
    """What became of a source's rows: how many were read, how many problems of each language are
    trained on, how many are held out for evaluation, how many were dropped and why, with the first
    row of every reason. `digest` identifies the list of problems together with the texts that
    prompts contain in their languages. `columns` lists the columns that decide on a row's language,
    by source, and whether its rows have them."""

    rows: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    dev: int = 0
    digest: str = ""
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    columns: dict[tuple[str, str], bool] = field(default_factory=dict)

    def uniform(self, source: str, column: str, here: bool, where: str) -> None:
        """Refuses a source in which only some rows have a column that decides on their language:
        the others would be taken for another language."""
        if self.columns.setdefault((source, column), here) == here:
            return
        told = f"no column '{column}', which other rows have"
        if here:
            told = f"a column '{column}', which the rows before it do not have"
        raise UserError(f"{where}: {told}: fill it in for all of them, or for none")

    def drop(self, reason: str, where: str) -> None:
        self.dropped[reason] += 1
        self.first.setdefault(reason, where)

    def finalize(self, train: Sequence[Problem], dev: Sequence[Problem]) -> None:
        """Records the totals, once all of a source is read."""
        self.kept = Counter(problem.language for problem in train)
        self.dev = len(dev)
        texts = [language(code).model_dump_json() for code in sorted(self.kept)]
        whole = json.dumps([[p.id for p in train], [p.id for p in dev], texts])
        self.digest = hashlib.sha256(whole.encode()).hexdigest()[:16]

    def lines(self) -> list[str]:
        """The drops as text, most frequent first."""
        return [
            f"{count:,} left out: {reason} (first: {self.first[reason]})"
            for reason, count in self.dropped.most_common()
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "kept": dict(self.kept),
            "dev": self.dev,
            "dropped": [
                {"reason": reason, "count": count, "first": self.first[reason]}
                for reason, count in self.dropped.most_common()
            ],
            "digest": self.digest,
        }
