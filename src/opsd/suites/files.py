"""What a suite is, and how its YAML file is read: shipped suites and the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from opsd.data.choices import Choices
from opsd.data.problems import Data
from opsd.data.rows import SUFFIXES
from opsd.languages import registry as languages
from opsd.parts import part
from opsd.types import UserError
from opsd.validation import explain, mapping, near

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
Metric = Annotated[str, Field(pattern=r"^((avg|pass|maj)@[1-9][0-9]*( gain)?|accuracy)$")]


@part
class Setting:
    """How published numbers were measured: samples per problem, budgets in tokens, sampling, the
    chat template's thinking mode, and `where` the source says so. Unknown settings are None or
    empty."""

    where: str
    samples: Count | None = None
    budgets: tuple[Count, ...] = ()
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    thinking: bool | None = None


@part
class Table:
    """Published numbers: `values` in percent, by model and method. The metric `accuracy` is for
    tables that do not define it further."""

    where: str
    metric: Metric
    values: dict[str, dict[str, Annotated[float, Field(ge=-100, le=100)]]]
    budget: Count | None = None
    language: str | None = None
    split: str | None = None


@part
class Overlap:
    """Problems of a suite that are also in another suite, or in a dataset (`source`, perhaps only
    in one `split` of it); `what` describes them."""

    what: str
    suite: str = ""
    source: str = ""
    split: str | None = None


@part
class Suite:
    """A test set in one or several languages (ISO 639-3 codes).

    `source`, `config`, `split` and `revision` say where it is on the Hub; `files` are the possible
    layouts of a local copy, below the suite's own `folder`. In `config`, `split`, `source` and
    `files`, `{language}` stands for the suite's own spelling of a language (`spelled`), `{split}`
    for a split. `splits` are parts that are scored separately, with their weights in the suite's
    score. `size` is the number of rows of each language and split. Languages `aside` are included
    for reference, but not in the published mean. `columns`, `only`, `choices` and `instructed` are
    those of `data`; `trained_columns` and `trained_choices` are those of the training data, which a
    file of the user's own may have, too.
    """

    name: Name
    about: str = ""
    source: str = ""
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    folder: str = ""
    files: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    spelled: dict[str, str] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    splits: dict[str, Positive] = field(default_factory=dict)
    size: Count | None = None
    columns: dict[str, str] = field(default_factory=dict)
    trained_columns: dict[str, str] = field(default_factory=dict)
    trained_choices: Choices | None = None
    only: dict[str, tuple[str | int | bool, ...]] = field(default_factory=dict)
    choices: Choices | None = None
    instructed: bool = False
    protocol: Setting | None = None
    published: tuple[Table, ...] = ()
    overlaps: tuple[Overlap, ...] = ()

    def spelling(self, code: str) -> str:
        return self.spelled.get(code, code)

    @property
    def problems(self) -> int | None:
        """Number of rows of each language, in all splits together."""
        return self.size and self.size * max(1, len(self.splits))

    def printed(self) -> Iterator[dict[str, Any]]:
        """Yields every published number as a row: suite, metric, value, where, language, split,
        budget, model, method."""
        for table in self.published:
            about = {f.name: getattr(table, f.name) for f in fields(table) if f.name != "values"}
            for model, values in table.values.items():
                for method, value in values.items():
                    number = {"suite": self.name, "value": value, "model": model, "method": method}
                    yield about | number


_SUITE = TypeAdapter(Suite)
_OURS = {"trained_columns", "trained_choices"}


def shipped() -> dict[str, Suite]:
    """The published suites, by name."""
    files = sorted(Path(__file__).parent.glob("*.yaml"))
    found = [parse({"name": f.stem, **mapping(f)}, str(f)) for f in files]
    return {suite.name: suite for suite in found}


def load_suite(path: Path) -> Suite:
    """A suite of the user's own. Without a name it is named after its file; a source that is a file
    is relative to the suite file's folder. UserError, one line, for anything wrong with it."""
    content = {"name": path.stem, **mapping(path)}
    if not content.get("source"):
        raise UserError(f"{path}: source is missing: name a file, or a dataset on the Hub")
    source = Path(str(content["source"]))
    if source.suffix in SUFFIXES and not source.is_absolute():
        content["source"] = str(path.parent / source)
    suite = parse(content, str(path))
    try:
        codes = {name: languages.resolve(name) for name in suite.languages}
    except UserError as error:
        raise UserError(f"{path}: languages: {error}") from error
    spelled = {codes[name]: spelling for name, spelling in suite.spelled.items()}
    aside = tuple(codes[name] for name in suite.aside)
    return replace(suite, languages=tuple(codes.values()), spelled=spelled, aside=aside)


def parse(content: Mapping[str, Any], where: str) -> Suite:
    """A suite from plain values."""
    known = {f.name for f in fields(Suite)} - _OURS
    for key in content:
        if key not in known:
            hint = near(str(key), known) or f"; known: {', '.join(sorted(known))}"
            raise UserError(f"{where}: {key}: unknown key{hint}")
    try:
        suite = _checked(_SUITE.validate_python(dict(content)))
        Data(source=suite.source, columns=suite.columns)  # refuses unknown names of texts
        return suite
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, content, _SUITE)}") from error
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _checked(suite: Suite) -> Suite:
    """The suite, if its parts fit together; else ValueError."""
    for key in ("aside", "spelled"):
        foreign = [code for code in getattr(suite, key) if code not in suite.languages]
        if foreign:
            raise ValueError(f"{key}: {foreign[0]} is not among the languages")
    told = "{split}" in " ".join((suite.source, suite.config or "", suite.split, *suite.files))
    if suite.splits and not told:
        raise ValueError("splits: write {split} into source or split to tell them apart")
    if told and not suite.splits:
        raise ValueError("{split} stands for one of the splits: set splits, with their weights")
    return suite
