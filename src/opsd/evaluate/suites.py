"""What models are evaluated on: published suites as values, and a file of the user's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opsd.data import languages, problems
from opsd.data.filters import Account
from opsd.data.language_listing import AFRIMGSM
from opsd.data.problems import Data
from opsd.evaluate.labels import fixes, mended
from opsd.run import log
from opsd.types import Problem, UserError

ALL = "all"


@dataclass(frozen=True)
class Suite:
    """A test set in one or several languages (ISO 639-3 codes).

    `source`, `config`, `split` and `revision` say where it is on the hub; `file` how a local copy
    is laid out, below the suite's own folder. In `config` and `file`, `{language}` stands for the
    suite's own spelling of a language. `size` is the number of problems in each language;
    `protocol` what its published numbers were measured with; languages `aside` are there for
    reference and not in its published mean. `columns` are those of a file of the user's own,
    `trained_columns` those that were trained on, which it may have.
    """

    name: str
    languages: tuple[str, ...] = ()
    source: str = ""
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    file: str = ""
    spelled: Mapping[str, str] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    size: int | None = None
    protocol: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    trained_columns: Mapping[str, str] = field(default_factory=dict)

    def spelling(self, code: str) -> str:
        return self.spelled.get(code, code)


_MGSM = {
    "ben": "bn",
    "deu": "de",
    "eng": "en",
    "spa": "es",
    "fra": "fr",
    "jpn": "ja",
    "rus": "ru",
    "swa": "sw",
    "tel": "te",
    "tha": "th",
    "zho": "zh",
}
SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            name="gsm8k",
            languages=("eng",),
            source="openai/gsm8k",
            config="main",
            file="test.jsonl",
            size=1319,
        ),
        Suite(
            name="mgsm",
            languages=tuple(_MGSM),
            source="juletxara/mgsm",
            config="{language}",
            file="mgsm_{language}.tsv",
            spelled=_MGSM,
            size=250,
        ),
        Suite(
            name="afrimgsm",
            languages=(*AFRIMGSM, "eng", "fra"),
            source="masakhane/afrimgsm",
            config="{language}",
            file="{language}/test.tsv",
            aside=("eng", "fra"),
            size=250,
            protocol="12 samples; 1,024, 2,048 and 4,096 tokens (COPSD, arXiv 2605.09548)",
        ),
    )
}


def suite(name: str) -> Suite:
    """A published suite. UserError for an unknown name."""
    if name not in SUITES:
        raise UserError(
            f"unknown suite '{name}'; known: {', '.join(SUITES)}; --data takes a file of your own"
        )
    return SUITES[name]


def own(data: str, split: str = "test", **columns: Mapping[str, str]) -> Suite:
    """A file of the user's own, or a dataset, as a suite that is named after it; `columns` and
    `trained_columns` are the suite's."""
    name = re.sub(r"\.(jsonl?|csv|tsv|parquet)$", "", Path(data).name)
    name = name.replace("{language}", "").strip("-_. ") or "data"
    # Of the same name as a published suite, it must not share that one's folder and labels.
    name = f"own-{name}" if name in SUITES else name
    return Suite(name=name, source=data, split=split, **columns)


def read(
    suite: Suite, asked: Sequence[str] = (), folder: Path | None = None, limit: int | None = None
) -> list[Problem]:
    """The problems of a suite, at most `limit` per language: in the languages `asked` for, by
    default (or as `all`) in every one that it has. `folder` holds local copies, instead of the hub.

    Raises UserError for a language that the suite, or the folder, does not have.
    """
    names = [name for name in asked if name != ALL]
    if not suite.languages:
        if folder is not None:
            raise UserError("--data-dir holds copies of suites; a file of your own is --data alone")
        return _loaded(_own_data(suite, names, limit))
    codes = list(dict.fromkeys(map(languages.resolve, names))) or list(suite.languages)
    for code in codes:
        if code not in suite.languages:
            raise UserError(f"{suite.name} has no '{code}'; it has: {', '.join(suite.languages)}")
    if folder is not None:
        codes = _found(suite, codes, folder, bool(names))
    return [problem for code in codes for problem in _read(suite, code, folder, limit)]


def _own_data(suite: Suite, names: Sequence[str], limit: int | None) -> Data:
    data = Data(source=suite.source, split=suite.split, language=tuple(names) or None, limit=limit)
    trained = dict(suite.trained_columns)
    if trained:
        row = problems.first_row(data.model_copy(update={"columns": trained}))
        spelled = names[0] if names else ""
        trained = {n: c for n, c in trained.items() if c.replace("{language}", spelled) in row}
    return data.model_copy(update={"columns": {**trained, **suite.columns}})


def _found(suite: Suite, codes: Sequence[str], folder: Path, named: bool) -> list[str]:
    """The languages of which the folder has a copy: all of them where they were asked for by
    name."""
    files = {code: _file(suite, code, folder) for code in suite.languages}
    here = [code for code, file in files.items() if file.is_file()]
    if not here:
        raise UserError(f"{folder} has no copy of {suite.name}: no file like {files[codes[0]]}")
    missing = [code for code in codes if code not in here]
    if missing and named:
        raise UserError(f"no file {files[missing[0]]}; {folder} has {', '.join(here)}")
    if missing:
        log(f"{suite.name}: {folder} has no {', '.join(missing)}; the means are without")
    return [code for code in codes if code in here]


def _file(suite: Suite, code: str, folder: Path) -> Path:
    """The copy of one language, in the suite's own folder or in the one above."""
    inner = folder / suite.name
    within = suite.file.replace("{language}", suite.spelling(code))
    return (inner if inner.is_dir() else folder) / within


def _read(suite: Suite, code: str, folder: Path | None, limit: int | None) -> list[Problem]:
    local = Data(source="", split=suite.split, language=code, limit=limit)
    if folder is not None:
        data = local.model_copy(update={"source": str(_file(suite, code, folder))})
    else:
        config = suite.config and suite.config.replace("{language}", suite.spelling(code))
        remote = {"source": suite.source, "config": config, "revision": suite.revision}
        data = local.model_copy(update=remote)
    try:
        loaded = _loaded(data)
    except UserError as error:
        if folder is not None:
            raise
        raise UserError(f"{error}; --data-dir names a folder of local copies") from error
    if suite.size and limit is None and len(loaded) != suite.size:
        log(f"{suite.name} {code}: {len(loaded)} problems, where the suite has {suite.size}")
    changed = mended(suite.name, loaded)
    if changed:
        rows = ", ".join(map(str, changed))
        log(f"{suite.name} {code}: labels once wrong have changed (rows {rows}); taken as they are")
    elif folder is None and fixes(suite.name, code):
        log(f"{suite.name} {code}: corrected labels were found in the GitHub copy, not the hub's")
    return loaded


def _loaded(data: Data) -> list[Problem]:
    account = Account()
    loaded, _ = problems.load(data, account)
    for line in account.lines():
        if "beyond data.limit" not in line:
            log(f"{data.source}: {line}")
    assert isinstance(loaded, list)  # a stream only where it is asked for
    return loaded
