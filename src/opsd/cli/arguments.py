"""What commands share: options, the parsing of comma-separated lists, and common preparations."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from opsd.cli.interruption import leave
from opsd.types import UserError


def known_recipes() -> list[str]:
    """The names that a shell offers to complete a recipe's name."""
    from opsd.recipe.files import shipped

    return list(shipped())


def known_methods() -> list[str]:
    """The names that a shell offers to complete a method's name."""
    from opsd.recipe.names import methods

    return list(methods())


def known_suites() -> list[str]:
    """The names that a shell offers to complete a suite's name."""
    from opsd.suites.loading import SUITES

    return list(SUITES)


RecipeName = Annotated[
    str,
    typer.Argument(
        help="A recipe file, the name of a shipped recipe, or a run's folder.",
        autocompletion=known_recipes,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Suite = Annotated[
    str | None,
    typer.Option(
        help="A published suite (gsm8k, afrimgsm, aime25, ...), or a suite file (.yaml).",
        autocompletion=known_suites,
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(help="A column of your file, as in prompt=question; default: as in training."),
]
DataDir = Annotated[
    Path | None, typer.Option(help="A folder with local copies of suites, used instead of the Hub.")
]
Languages = Annotated[
    str | None,
    typer.Option(
        help="Codes, names or files, comma-separated; or all. Default: as in training, or all."
    ),
]
Limit = Annotated[
    int | None, typer.Option(help="Only the first N problems of each language.", min=1)
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a recipe key: key.path=value. Repeatable."),
]
Plain = Annotated[
    bool, typer.Option("--plain", help="Use a plain prompt, not the one from training.")
]
AskAs = Annotated[str | None, typer.Option(help="Use this recipe's student prompt.")]
SkipLong = Annotated[
    bool, typer.Option("--skip-long", help="Skip problems that do not fit in the model's context.")
]
EndpointURL = Annotated[
    str | None,
    typer.Option(help="URL of an OpenAI-compatible endpoint; models are then names that it knows."),
]
EngineName = Annotated[
    str, typer.Option("--engine", help="The engine that generates: hf (Transformers) or vllm.")
]
Timeout = Annotated[
    float, typer.Option(help="Seconds to wait for one answer from the endpoint.", min=1)
]
KeyVariable = Annotated[
    str, typer.Option(help="The environment variable that contains the endpoint's key.")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads of this process.", min=1)]


def numbers(text: str | None, option: str, wanted: str, least: int = 1) -> list[int]:
    """`1024,2048` as numbers; empty for an option that is not given. If a part is not a number or
    too small, the UserError says what is `wanted`."""
    if text is None:
        return []
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < least:
        raise UserError(f"{option} {text}: write {wanted}")
    return found


def names(text: str | None, option: str, wanted: str) -> list[str]:
    """`swa,yor` as names; empty for an option that is not given. If a name is empty, the UserError
    says what is `wanted`."""
    if text is None:
        return []
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise UserError(f"{option} {text}: write {wanted}")
    return found


_COLUMNS = "prompt=COLUMN, answer=COLUMN, and so on"


def columns(pairs: Sequence[str]) -> dict[str, str]:
    """`--column` options of an evaluation as a mapping."""
    found = mapped("--column", pairs)
    for name, column in found.items():
        if name not in ("prompt", "answer", "language"):
            told = "write prompt=COLUMN, answer=COLUMN or language=COLUMN"
            raise UserError(f"--column {name}={column}: {told}")
    return found


def mapped(option: str, pairs: Sequence[str], example: str = _COLUMNS) -> dict[str, str]:
    """`name=value` options as a mapping. UserError, with an example, for anything else."""
    found = {}
    for pair in pairs:
        name, _, column = pair.partition("=")
        if not name or not column:
            raise UserError(f"{option} {pair}: write {example}")
        found[name] = column
    return found


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """A context for imports, in which an interruption ends the process at once. The objects that
    imports create stay, so garbage collection is off here and skips them later: this saves a tenth
    to a fifth of a command's start."""
    # On CPUs with AVX512-BF16, PEFT's import of bitsandbytes warns that a kernel for the inference
    # of 4-bit models is missing; nothing here uses it.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    gc.disable()
    usual = signal.getsignal(signal.SIGINT)
    begins = usual is signal.default_int_handler
    try:
        if begins:
            signal.signal(signal.SIGINT, leave)
        yield
    finally:
        if begins:
            signal.signal(signal.SIGINT, usual)
        gc.freeze()
        gc.enable()


def tables(as_json: bool) -> contextlib.AbstractContextManager[Any]:
    """A context for printing tables: they go to standard output, or to standard error if standard
    output is to contain only one JSON document."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


def prepare(threads: int | None) -> None:
    """Sets torch's threads before any work (a run only repeats bit for bit with the same number of
    threads), and turns Transformers' progress bars off unless standard error is a terminal."""
    with importing():
        import torch
        from transformers.utils import logging

    if threads is not None:
        torch.set_num_threads(threads)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def load_recipe(name: str, settings: Sequence[str]) -> Any:
    """A recipe. A mistyped name is reported before torch is imported."""
    from opsd.recipe.content import check_names, read

    content, where = read(name, settings)
    check_names(content, where)
    with importing():
        from opsd.recipe.schema import parse

    return parse(content, where)
