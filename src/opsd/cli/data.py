"""The commands for datasets. They are thin: each imports what it needs when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from opsd.cli.arguments import Json, Settings, importing, load_recipe, mapped, names
from opsd.types import UserError

app = typer.Typer(no_args_is_help=True, help="Check datasets before training.")


@app.callback()
def _data() -> None:
    """Check datasets before training."""


@app.command()
def check(
    source: Annotated[
        str, typer.Argument(help="A file, a dataset on the Hub, or a recipe, to check its data.")
    ],
    set_: Settings = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="A column of the dataset, as in prompt=question, solution=worked."),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Codes or names, comma-separated; default: as each row says.")
    ] = None,
    split: Annotated[str, typer.Option(help="The split of a dataset on the Hub.")] = "train",
    limit: Annotated[
        int | None, typer.Option(help="At most this many problems per language.", min=1)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The model whose tokenizer counts; a recipe uses its own model."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="A folder with copies of suites, to find their problems in the dataset."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write an HTML page to this file instead.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a dataset for duplicates, answers that nothing can match, references with a different
    answer, suites' problems, other languages, and prompts that are too long."""
    own = {"--column": column, "--language": language, "--limit": limit, "--model": model}
    given = next((name for name, value in own.items() if value is not None), None)
    content = _of_recipe(source, set_, data_dir, given)
    if content is None:
        if set_:
            raise UserError(
                "--set changes a recipe; for a dataset use --column, --language, --limit"
            )
        with importing():
            from opsd.data.problems import Data
            from opsd.doctor.check import check as checked
            from opsd.validation import explain

        columns = mapped("--column", column or ())
        asked = {"source": source, "split": split, "columns": columns, "limit": limit}
        spoken = names(language, "--language", "codes or names, comma-separated")
        try:
            data = Data.model_validate(asked | {"language": tuple(spoken) or None})
        except ValidationError as error:
            raise UserError(f"{source}: {explain(error, asked, Data)}") from error
        content = checked(data, model, data_dir)
    _show(content, html, as_json)


def _of_recipe(
    source: str, settings: list[str] | None, folder: Path | None, given: str | None
) -> dict[str, Any] | None:
    """The results of the check if the source is a recipe; None if it is not."""
    from opsd.recipe.files import shipped

    if Path(source).suffix not in (".yaml", ".yml") and source not in shipped():
        return None
    if given is not None:
        raise UserError(f"{given} is for a dataset; for a recipe use --set data.KEY=VALUE")
    recipe = load_recipe(source, settings or ())
    with importing():
        from opsd.doctor.prompts import check_recipe

    return check_recipe(recipe, folder)


def _show(content: dict[str, Any], html: Path | None, as_json: bool) -> None:
    if as_json:
        print(json.dumps(content, ensure_ascii=False))
    elif html is not None:
        from opsd.doctor.page import write_page

        print(write_page(content, html))
    else:
        from opsd.doctor.show import show

        show(content)
