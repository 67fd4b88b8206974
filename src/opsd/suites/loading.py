"""What models are evaluated on: published suites, a suite file or a file of the user's own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from opsd.console import log
from opsd.data import problems
from opsd.data.filters import DataReport, Filters
from opsd.data.problems import Data
from opsd.languages import registry as languages
from opsd.suites import files as suite_files
from opsd.suites.files import Suite
from opsd.suites.labels import fixes, mended
from opsd.types import Problem, UserError
from opsd.validation import near

ALL = "all"
SPLIT = "split"
"""The key in a problem's metadata that names its split."""

SUITES = suite_files.shipped()


def suite(name: str) -> Suite:
    """A published suite, or the one that a `.yaml` file describes. UserError for anything else."""
    if Path(name).suffix in languages.SUFFIXES:
        return _renamed(suite_files.load_suite(Path(name)))
    if name not in SUITES:
        raise UserError(
            f"unknown suite '{name}'{near(name, SUITES) or ';'} known: {', '.join(SUITES)}; or name"
            " your own suite file (.yaml); --data takes a file of problems"
        )
    return SUITES[name]


def own(data: str, split: str = "test", **about: Any) -> Suite:
    """A file of the user's own, or a dataset, as a suite that is named after it; `about` are other
    fields of the suite."""
    name = re.sub(r"\.(jsonl?|csv|tsv|parquet)$", "", Path(data).name)
    name = name.replace("{language}", "").strip("-_. ") or "data"
    name = re.sub(r"[^\w.-]+", "_", name)
    return _renamed(Suite(name=name, source=data, split=split, **about))


def _renamed(suite: Suite) -> Suite:
    """Renames a suite with the name of a published one: they must not share folder and labels."""
    return replace(suite, name=f"own-{suite.name}") if suite.name in SUITES else suite


def parts(suite: Suite, asked: Sequence[str]) -> Suite:
    """The suite with only the requested splits; with all of them if none is requested."""
    foreign = [split for split in asked if split not in suite.splits]
    if foreign:
        have = f"it has: {', '.join(suite.splits)}" if suite.splits else "it has no splits"
        raise UserError(f"{suite.name} has no split '{foreign[0]}'; {have}")
    chosen = {split: weight for split, weight in suite.splits.items() if split in asked}
    return replace(suite, splits=chosen) if asked else suite


class NoCopy(UserError):
    """A folder without any file of a suite."""


def read(
    suite: Suite, asked: Sequence[str] = (), folder: Path | None = None, limit: int | None = None
) -> list[Problem]:
    """The problems of a suite, at most `limit` per language (and split), in the languages `asked`;
    by default, or with `all`, in all its languages. `folder` contains local copies, which are read
    instead of the Hub.

    Raises UserError for a language that the suite, or the folder, does not have, and for a limit
    below 1; NoCopy if the folder has no file of the suite.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: write a whole number, 1 or above")
    names = [name for name in asked if name != ALL]
    if names and ALL in asked:
        raise UserError(
            f"--language {','.join(asked)}: '{ALL}' includes the others; write it alone, or only"
            " the languages that you want"
        )
    if folder is not None and not suite.files:
        raise UserError(
            f"--data-dir is for copies of suites; {suite.name} is read from {suite.source} (for a"
            " file of your own, use only --data)"
        )
    if not suite.languages:
        return _in_splits(suite, _own_data(suite, names, limit), None, "")
    codes = list(dict.fromkeys(map(languages.resolve, names))) or list(suite.languages)
    for code in codes:
        if code not in suite.languages:
            raise UserError(f"{suite.name} has no '{code}'; it has: {', '.join(suite.languages)}")
    if folder is not None:
        codes = _found(suite, codes, folder, bool(names))
    return [problem for code in codes for problem in _read(suite, code, folder, limit)]


def _data(suite: Suite, limit: int | None) -> Data:
    return Data(
        source=suite.source,
        config=suite.config,
        split=suite.split,
        revision=suite.revision,
        columns=suite.columns,
        filters=Filters(only=suite.only),
        choices=suite.choices,
        instructed=suite.instructed,
        limit=limit,
    )


def _own_data(suite: Suite, names: Sequence[str], limit: int | None) -> Data:
    """How to read a file of the user's own, in the named languages or those that its rows name.
    The columns and choices of the training data are used as far as its first row has them."""
    data = _data(suite, limit).model_copy(update={"language": tuple(names) or None})
    trained, choices = dict(suite.trained_columns), suite.trained_choices
    if trained or choices:
        row = problems.first_row(data.model_copy(update={"columns": trained}))
        spelled = names[0] if names else ""
        trained = {n: c for n, c in trained.items() if c.replace("{language}", spelled) in row}
        if choices is not None and choices.columns <= row.keys():
            data = data.model_copy(update={"choices": choices})
    return data.model_copy(update={"columns": {**trained, **suite.columns}})


def _found(suite: Suite, codes: Sequence[str], folder: Path, named: bool) -> list[str]:
    """The languages with a copy in the folder. UserError for one without a copy that was requested
    by name."""
    split = next(iter(suite.splits), "")
    files = {code: _file(suite, code, split, folder) for code in suite.languages}
    here = [code for code, file in files.items() if file.is_file()]
    if not here:
        raise NoCopy(f"{folder} has no copy of {suite.name}: no file like {files[codes[0]]}")
    missing = [code for code in codes if code not in here]
    if missing and named:
        raise UserError(f"no file {files[missing[0]]}; {folder} has {', '.join(here)}")
    if missing:
        log(f"{suite.name}: {folder} has no {', '.join(missing)}; the means do not include them")
    return [code for code in codes if code in here]


def _file(suite: Suite, code: str, split: str, folder: Path) -> Path:
    """The copy of one language and split, in the suite's own folder or in the one above: the first
    layout that exists, else the usual one."""
    inner = folder / (suite.folder or suite.name)
    base = inner if inner.is_dir() else folder
    files = [base / _filled(suite, text, code, split) for text in suite.files]
    return next((file for file in files if file.is_file()), files[0])


def _filled(suite: Suite, text: str, code: str, split: str) -> str:
    """Fills in the placeholders. Without a code, `{language}` stays, and `data` fills it in."""
    spelled = suite.spelling(code) if code else "{language}"
    return text.replace("{language}", spelled).replace("{split}", split)


def _read(suite: Suite, code: str, folder: Path | None, limit: int | None) -> list[Problem]:
    """The problems in one language."""
    data = _data(suite, limit).model_copy(update={"language": code})
    try:
        loaded = _in_splits(suite, data, folder, code)
    except UserError as error:
        if folder is not None or not suite.files:
            raise
        raise UserError(f"{error}; --data-dir names a folder of local copies") from error
    changed = mended(suite.name, loaded)
    if changed:
        rows = ", ".join(map(str, changed))
        log(f"{suite.name} {code}: labels once wrong have changed (rows {rows}); used unchanged")
    elif folder is None and fixes(suite.name, code):
        log(f"{suite.name} {code}: corrected labels were found in the GitHub copy, not the Hub's")
    return loaded


def _in_splits(suite: Suite, data: Data, folder: Path | None, code: str) -> list[Problem]:
    """The problems of every split, with the split's name in their metadata."""
    found = []
    for split in suite.splits or ("",):
        texts = {"source": data.source, "config": data.config or "", "split": data.split}
        named = {key: _filled(suite, text, code, split) for key, text in texts.items() if text}
        if folder is not None:
            named = {"source": str(_file(suite, code, split, folder)), "config": None}
        loaded, rows = _loaded(data.model_copy(update=named))
        counts = {code: rows} if code else Counter(problem.language for problem in loaded)
        for language, count in counts.items():
            if suite.size and data.limit is None and count != suite.size:
                where = " ".join(filter(None, (suite.name, language, split)))
                log(f"{where}: {count} problems, but the suite has {suite.size}")
        told = {SPLIT: split} if split else {}
        found += [replace(p, metadata={**p.metadata, **told}) for p in loaded]
    return found


def _loaded(data: Data) -> tuple[list[Problem], int]:
    """The problems of one source, and the number of its rows; logs which rows are left out."""
    account = DataReport()
    loaded, _ = problems.load_problems(data, account)
    for line in account.lines():
        if "beyond data.limit" not in line:
            log(f"{data.source}: {line}")
    assert isinstance(loaded, list)  # a suite is never streamed
    return loaded, account.rows
