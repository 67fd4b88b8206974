"""Problems from files, the Hub and the built-in world. Every row becomes a `Problem`, an error, or
a counted drop."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from opsd.data.choices import Choices
from opsd.data.columns import USUAL, problem, translations, wide_column
from opsd.data.curriculum import AnyCurriculum
from opsd.data.examples import Example, after
from opsd.data.filters import DataReport, Filters
from opsd.data.rows import Row, file_rows, hub_rows, is_file, refuse_halves, refuse_pictures
from opsd.data.stream import ProblemStream, StreamPart, row_stream
from opsd.languages import registry as languages
from opsd.lm.built_in import NAMES
from opsd.prompts.prompt import INSTRUCTED
from opsd.types import WHERE, Problem, UserError
from opsd.validation import near

Positive = Annotated[float, Field(gt=0)]


class Data(BaseModel):
    """Where problems come from.

    `source` is a file (.jsonl, .json, .csv, .tsv, .parquet), a dataset on the Hub (`config`,
    `split`, `revision`), or a built-in world. `columns` maps `prompt`, `answer`, `language` and the
    privileged texts (`solution`, `translation`, ...) to the source's columns; usual names are found
    without it. `language` is a code, a name or a language file. A list trains on several languages,
    drawn by `weights` (by default as often as they occur). Without `language`, the `language`
    column of a row decides, or the row is English. In `source`, `config`, `columns` and
    `filters.require`, `{language}` stands for the language as it is written here. `limit` keeps
    that many problems per language. `dev` sets that many problems (or that share) aside for
    evaluation during training, chosen by their hash, the same in all languages. `choices` turns
    multiple-choice rows into problems. With `instructed`, the problems themselves say how to
    answer, and no instruction is added. `examples` (`problem`, `solution`) are worked examples that
    come before every problem, as earlier turns. `streaming` reads rows during training, for sets
    larger than memory. A `curriculum` draws problems by the outcomes of their rollouts, instead of
    in a random order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    language: str | tuple[str, ...] | None = None
    weights: dict[str, Positive] = Field(default_factory=dict)
    filters: Filters = Filters()
    limit: Annotated[int, Field(gt=0)] | None = None
    dev: Annotated[int | float, Field(ge=0)] = 0
    choices: Choices | None = None
    instructed: bool = False
    examples: tuple[Example, ...] = ()
    streaming: bool = False
    curriculum: AnyCurriculum | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_takes_away(cls, given: Any) -> Any:
        """In a recipe that extends another one, null removes the inherited value."""
        if not isinstance(given, Mapping):
            return given
        return {key: value for key, value in given.items() if value is not None}

    @field_validator("dev")
    @classmethod
    def _a_number_or_a_share(cls, dev: float) -> float:
        if dev > 1 and dev % 1:
            raise ValueError(f"{dev} is neither a number of problems nor a share below 1")
        return dev if dev % 1 else int(dev)

    @field_validator("columns")
    @classmethod
    def _known_names(cls, columns: dict[str, str]) -> dict[str, str]:
        for name in columns.keys() - USUAL:
            text, _, code = name.rpartition("_")
            if text in ("translation", "solution") and code in languages.codes():
                continue
            meant = near(name, USUAL, 0.75)
            if meant:  # any other name is a text for a user's own template
                raise ValueError(f"no text is called '{name}'{meant}")
        return columns

    @property
    def spellings(self) -> tuple[str, ...]:
        """The requested languages, as they are spelled in `language`."""
        return (self.language,) if isinstance(self.language, str) else self.language or ()

    @property
    def asked(self) -> dict[str, str]:
        """The requested languages: ISO 639-3 codes, with the spelling that fills `{language}`."""
        return _codes(self.spellings)

    def shares(self) -> dict[str, float]:
        """Sampling weights by code. UserError if they do not name the languages of `language`."""
        weights = {languages.resolve(name): weight for name, weight in self.weights.items()}
        asked = self.asked
        if weights and weights.keys() != asked.keys():
            raise UserError(
                f"data.weights names {', '.join(weights)}, data.language"
                f" {', '.join(asked) or 'nothing'}: give every language one weight"
            )
        return weights


@lru_cache
def _codes(spellings: tuple[str, ...]) -> dict[str, str]:
    codes = {languages.resolve(name): name for name in spellings}
    return {code: code if Path(name).suffix else name for code, name in codes.items()}


def load_problems(
    data: Data, account: DataReport | None = None
) -> tuple[list[Problem] | ProblemStream, list[Problem]]:
    """Training and dev problems; `account` records what became of the rows.

    Raises UserError for a source without problems.
    """
    account = account or DataReport()
    data.shares()  # refuses unknown languages before anything is read
    if data.streaming and data.source not in NAMES:
        return _streamed(data, account)
    if data.source in NAMES:
        train, dev = _built_in(data)
        account.rows = len(train) + len(dev)
    else:
        train, dev = _split(read(data, account), data, account)
    account.finalize(train, dev)
    return train, dev


def read(data: Data, account: DataReport | None = None) -> list[Problem]:
    """All problems of a source in its order, including the dev problems; `metadata["row"]` is the
    number of the row, from 0. Raises UserError if there are none."""
    account = account or DataReport()
    problems: list[Problem] = []
    for part in _parts(data):
        number = 0
        for number, (where, row) in enumerate(_rows(part), 1):
            problems += _problems(part, row, where, account, {"row": number - 1})
        if number == 0:
            raise UserError(f"{part.source} contains no rows")
    if not problems:
        told = "; ".join(account.lines())
        raise UserError(f"{data.source}: no problem is left of {account.rows} rows ({told})")
    return problems


def as_problems(rows: Iterable[Problem | Row]) -> list[Problem] | ProblemStream:
    """Problems unchanged, and rows with the usual column names as problems. A `language` column
    contains codes or names of languages; without it the language is English. A streaming dataset
    becomes a stream."""
    from datasets import IterableDataset

    if isinstance(rows, ProblemStream):
        return rows
    data = Data(source="the dataset")
    if isinstance(rows, IterableDataset):
        return ProblemStream((StreamPart(data.source, rows, partial(_problems, data)),))
    account, problems = DataReport(), list[Problem]()
    for number, row in enumerate(rows, 1):
        if isinstance(row, Problem):
            problems.append(row)
        else:
            problems += _problems(data, row, f"row {number}", account)
    return problems


def first_row(data: Data) -> Row:
    """A source's first row; empty if it has no rows."""
    return next((row for _, row in _rows(_parts(data)[0])), {})


def _parts(data: Data) -> list[Data]:
    """The source once; or once per language if `{language}` occurs in its names."""
    named = (data.source, data.config or "", *data.columns.values(), *data.filters.require)
    if not any("{language}" in text for text in named):
        return [data]
    if not data.asked:
        raise UserError("'{language}' stands for data.language: set it to one or more languages")
    return [_for_language(data, code, spelling) for code, spelling in data.asked.items()]


def _for_language(data: Data, code: str, spelling: str) -> Data:
    def filled(text: str) -> str:
        return text.replace("{language}", spelling)

    filters = data.filters.model_copy(update={"require": tuple(map(filled, data.filters.require))})
    return data.model_copy(
        update={
            "source": filled(data.source),
            "config": data.config and filled(data.config),
            "columns": {name: filled(column) for name, column in data.columns.items()},
            "language": code,
            "filters": filters,
        }
    )


def _rows(data: Data) -> Iterator[tuple[str, Row]]:
    """Yields rows, each with its place."""
    if is_file(data.source):
        return file_rows(Path(data.source))
    rows = hub_rows(data.source, data.config, data.split, data.revision)
    return ((f"{data.source}, row {number}", row) for number, row in enumerate(rows, 1))


def _problems(
    data: Data,
    row: Row,
    where: str,
    account: DataReport,
    metadata: Mapping[str, Any] | None = None,
) -> Iterator[Problem]:
    """A row's problems: one, or one per language that the row is translated into."""
    account.rows += 1
    refuse_halves(row, where)
    refuse_pictures(row, where)
    told = {WHERE: where, **({INSTRUCTED: True} if data.instructed else {})}
    for lang in _languages(data, row, where, account):
        reason = data.filters.row_fault(row, lang, data.columns, where)
        if reason is None and data.choices is not None:
            reason = data.choices.fault(row, where)
        if reason is None:
            made = problem(row, data.columns, lang, where, {**told, **(metadata or {})})
            if data.choices is not None:
                made = data.choices.posed(made, row, where)
            reason = data.filters.problem_fault(made, where)
            if reason is None:
                yield after(made, data.examples)
        if reason is not None:
            account.drop(reason, where)


def _languages(data: Data, row: Row, where: str, account: DataReport) -> list[str]:
    """The languages that a row is trained in. They are never guessed: an English problem that is
    taken for another language would be prompted, taught and scored in that language."""
    column = data.columns.get("language", "language")
    if column not in row and "language" in data.columns:
        raise UserError(f"{where}: no column '{column}' for 'language'")
    account.uniform(data.source, column, column in row, where)
    if column in row:
        return _said(data, str(row[column] or "").strip(), column, where, account)
    asked = data.asked
    codes = list(asked) or ["eng"]
    usual = (data.columns.get("translation"), "translation", "problem_en")
    if not asked and (told := next((x for x in usual if x and row.get(x)), None)):
        raise UserError(
            f"{where}: in which language is the problem? There is '{told}', but no language column:"
            " add one, or set data.language (of `opsd evaluate`, --language)"
        )
    if "prompt" not in data.columns:
        _refuse_untranslated(data, row, codes, where, account)
    elif len(codes) > 1:
        raise UserError(f"{where}: which of {', '.join(codes)}? {_SAY_WHICH}")
    return codes


_SAY_WHICH = "Map data.columns.language, or put {language} into data.source or data.columns"


def _said(data: Data, name: str, column: str, where: str, account: DataReport) -> list[str]:
    """The language that a row names; none, and a counted drop, if others are requested."""
    if not name:
        raise UserError(f"{where}: the column '{column}' is empty: in which language is the row?")
    try:
        code = languages.resolve(name)
    except UserError as error:
        if not data.asked:
            raise UserError(f"{where}: {error}") from error
        code = ""
    if not data.asked or code in data.asked:
        return [code]
    account.drop("in another language" if code else f"in {name!r}, an unknown language", where)
    return []


def _refuse_untranslated(
    data: Data, row: Row, codes: Sequence[str], where: str, account: DataReport
) -> None:
    """Refuses a row that has translations, or ought to have them, but not into these languages."""
    translated = translations(row)
    for code in codes:
        # Next to translations, `problem` is the English one.
        if code == "eng" and translated:
            continue
        here = wide_column(row, code) is not None
        if not here and (translated or len(codes) > 1):
            raise UserError(
                f"{where}: no problem in {code}: there is neither a language column nor"
                f" 'problem_{code}'. {_SAY_WHICH}"
            )
        account.uniform(data.source, f"problem_{code}", here, where)


def _key(problem: Problem) -> str:
    """A key that is the same in every language: the English text, if it is known."""
    return problem.privileged.get("translation") or str(problem.prompt)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _dev_size(data: Data, problems: int) -> int:
    return int(data.dev) if data.dev >= 1 else round(data.dev * problems)


def _split(
    problems: list[Problem], data: Data, account: DataReport
) -> tuple[list[Problem], list[Problem]]:
    """Training problems in the source's order, at most `limit` per language; and dev problems, by
    hash. No problem is in both, whatever its language or solution."""
    keys = {_key(p) for p in problems}
    size = _dev_size(data, len(keys))
    held_out = set(heapq.nsmallest(size, keys, key=_hash))
    dev: dict[tuple[str, str], Problem] = {}
    for one in problems:
        if _key(one) in held_out and dev.setdefault(_place(one), one) is not one:
            account.drop("the same as a dev problem", one.name)
    train = [p for p in problems if _key(p) not in held_out]
    if not train:
        raise UserError(f"data.dev takes {size} of {len(problems)} problems: none is left to train")
    return _limited(train, data, account), [dev[place] for place in sorted(dev)]


def _place(problem: Problem) -> tuple[str, str]:
    return _hash(_key(problem)), problem.language


def _limited(problems: list[Problem], data: Data, account: DataReport) -> list[Problem]:
    if data.limit is None:
        return problems
    seen: Counter[str] = Counter()
    kept = []
    for one in problems:
        seen[one.language] += 1
        if seen[one.language] <= data.limit:
            kept.append(one)
        else:
            account.drop("beyond data.limit", one.name)
    return kept


def _built_in(data: Data) -> tuple[list[Problem], list[Problem]]:
    from opsd.miniature.world import problems

    codes = list(data.asked) or ["eng"]
    train = [p for code in codes for p in problems(data.source, data.split, code, data.limit)]
    size = _dev_size(data, len(train) // len(codes))
    dev = [p for code in codes for p in problems(data.source, "dev", code, size)]
    return [after(p, data.examples) for p in train], [after(p, data.examples) for p in dev]


_HEAD = 1000
"""How many problems at a stream's beginning its dev problems are chosen from, at least."""


def _streamed(data: Data, account: DataReport) -> tuple[ProblemStream, list[Problem]]:
    """A stream without its dev problems, and these: those with the smallest hashes at its
    beginning."""
    if 0 < data.dev < 1:
        raise UserError("data.dev: with streaming, write a number of problems, not a share")
    if data.limit is not None:
        raise UserError("data.limit is for sets in memory: remove it or data.streaming")
    parts, shares = _parts(data), data.shares()
    if shares and len(parts) == 1:
        raise UserError(
            "data.weights: with streaming, every language needs its own source; put"
            " {language} into data.source or data.config"
        )
    stream = ProblemStream(
        tuple(
            StreamPart(
                part.source,
                row_stream(part.source, part.config, part.split, part.revision),
                partial(_problems, part),
                shares.get(str(part.language), 1.0),
            )
            for part in parts
        ),
        account=account,
    )
    if not data.dev:
        return stream, []
    size = int(data.dev)
    head = stream.head(max(_HEAD, 20 * size))
    keys = set(heapq.nsmallest(size, {_key(p) for p in head}, key=_hash))
    dev = {_place(p): p for p in head if _key(p) in keys}
    account.dev = len(dev)
    return stream.without(lambda p: _key(p) in keys), [dev[place] for place in sorted(dev)]


SCANNED = 1000
"""How many rows lengths and remarks are computed over."""


def varied(given: Sequence[Problem], rows: int) -> list[Problem]:
    """The first `rows` problems, one of every language before the second of any."""
    seen: Counter[str] = Counter()
    turns = []
    for language in (row.language for row in given[:SCANNED]):
        turns.append(seen[language])
        seen[language] += 1
    order = sorted(range(len(turns)), key=lambda i: (turns[i], i))
    return [given[i] for i in order[:rows]]
