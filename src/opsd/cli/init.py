"""`opsd init`: writes a recipe from a few answers and the contents of the data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from opsd.data.columns import alike, named, problem
from opsd.data.rows import file_rows, is_file
from opsd.languages.registry import resolve
from opsd.lm.built_in import NAMES
from opsd.recipe.content import check_names
from opsd.recipe.files import next_steps, refuse_taken
from opsd.recipe.names import usual_method
from opsd.runs.files import write_atomically
from opsd.types import UserError

ROWS = "rows"
"""The answer in place of a language if every row names its own."""
_COUNTED = 1000
"""How many rows are counted at most, to decide how many are held out as dev problems."""
_ASKED = ("prompt", "answer", "solution", "translation")

Ask = Callable[[str, str | None, str], str]
"""Question, value of the option or None, default -> answer."""


def init(
    output: Path,
    model: str | None,
    data: str | None,
    language: str | None,
    method: str | None,
    columns: Mapping[str, str],
    ask: Ask,
) -> None:
    """Writes a recipe to `output`, and prints what to run next. Asks for what is not given.

    Raises UserError if `output` exists already, and for unknown names.
    """
    refuse_taken(output)
    model = ask("Model (a Hub name, a folder, or miniature)", model, "Qwen/Qwen3-1.7B")
    source = ask("Data (a file of problems, a dataset owner/name, or miniature)", data, "")
    if not source:
        raise UserError("no data given: add --data, as in opsd init --data problems.jsonl")
    rows = _first_rows(source)
    first = rows[0] if rows else {}
    says = any(first.get(name) for name in ("language", "lang"))
    default = ROWS if says else "swa" if source in NAMES else "eng"
    language = ask(f"Language (a code or name, or {ROWS}: as each row says)", language, default)
    spoken = [] if language == ROWS else [name.strip() for name in language.split(",")]
    code = [*map(resolve, spoken), "eng"][0]
    columns = _columns(first, code, columns, ask)
    if first:
        made = problem(first, columns, code, f"{source}, row 1")
        texts = {*made.privileged, *(["answer"] if made.answer else [])}
    else:  # a dataset on the Hub, or a built-in one, is not examined
        texts = {"solution", "translation", "answer"}
    method = ask(
        "Method (`opsd methods` lists them)", method, usual_method(texts, english=code == "eng")
    )
    dev = _dev(len(rows)) if "answer" in texts else 0
    text = draft(model, method, source, spoken, columns, dev)
    check_names(yaml.safe_load(text), str(output))
    write_atomically(output, text)
    if first:
        read = {**named(first, code), **columns}
        print("columns: " + ", ".join(f"{name} from '{own}'" for name, own in read.items()))
    if "answer" not in texts:
        print(
            "note: no answers, so nothing is graded, and no dev problems are held out; if a column"
            " contains them: --column answer=NAME"
        )
    print(next_steps(output))


def _first_rows(source: str) -> list[Mapping[str, Any]]:
    """The first rows of a file, at most `_COUNTED`; empty if the source is not a local file."""
    if source in NAMES or not is_file(source):
        return []
    rows = [row for _, row in itertools.islice(file_rows(Path(source)), _COUNTED)]
    if not rows:
        raise UserError(f"{source} contains no rows")
    return rows


def _columns(
    row: Mapping[str, Any], code: str, given: Mapping[str, str], ask: Ask
) -> dict[str, str]:
    """The mapping that the data needs: the columns that do not have their usual names."""
    if not row:
        return dict(given)
    usual = named(row, code)
    likely = usual | alike(row, code) | given
    have = ", ".join(map(str, row))
    for name in _ASKED:
        said = given.get(name) or ask(
            f"Column with the {name} ({have}; - for none)", None, likely.get(name, "-")
        )
        likely[name] = said
    mapping = {
        name: column for name, column in likely.items() if column not in ("-", usual.get(name))
    }
    if likely["prompt"] == "-":
        raise UserError(f"no column with the problem: add --column prompt=NAME, one of {have}")
    return mapping


def _dev(rows: int) -> int:
    """How many problems are held out to choose a checkpoint."""
    return min(50, rows // 10) if rows else 50


def draft(
    model: str,
    method: str,
    source: str,
    languages: Sequence[str],
    columns: Mapping[str, str],
    dev: int,
) -> str:
    """A recipe's text. Without languages, every row names its own. A built-in model gets full
    training instead of LoRA, and short completions."""
    small = model in NAMES
    language: Any = languages[0] if len(languages) == 1 else list(languages)
    data = {"source": source} | ({"language": language} if languages else {})
    data |= ({"columns": dict(columns)} if columns else {}) | ({"dev": dev} if dev else {})
    inline = {name: _inline(value) for name, value in data.items()}
    trained = _inline({"name": model} | ({} if small else {"lora": {"r": 64, "lora_alpha": 128}}))
    lines = [
        f"model: {trained}" + ("" if small else "  # an adapter; without lora, all weights"),
        f"method: {_inline(method)}  # explained by: opsd methods {method}",
        "data:",
        *(f"  {name}: {value}{_ABOUT.get(name, '')}" for name, value in inline.items()),
        "sampling:",
        f"  max_completion_length: {64 if small else 2048}  # tokens",
        "train:  # fields of OPSDConfig, a subclass of TrainingArguments",
        "  learning_rate: 5.0e-6",
        "  max_steps: 100",
        "  rollouts_per_step: 32",
        "  per_device_train_batch_size: 8  # rollouts in memory at once",
        "  save_steps: 20" + ("  # the dev problems are scored at the same steps" if dev else ""),
    ]
    return "\n".join(lines) + "\n"


_ABOUT = {
    "columns": "  # content: column name",
    "dev": "  # problems held out; the best checkpoint on them is kept",
}


def _inline(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6
    )
    return text.removesuffix("\n").removesuffix("\n...")
