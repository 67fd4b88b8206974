"""The command of migration. It is thin: it imports what it needs when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from opsd.cli.arguments import Json, importing
from opsd.types import UserError


def migrate(
    file: Annotated[Path, typer.Argument(help="A launch script, or a configuration (.yaml).")],
    output: Annotated[
        Path | None, typer.Option(help="The recipe to write; default: print it.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="The file's project, if not clear from the file: opsd, gkd, ..., or a .yaml."
        ),
    ] = None,
    variable: Annotated[
        list[str] | None,
        typer.Option(help="A variable of the script, as in LANG=swa. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert another project's launch script or configuration into a recipe.

    Prints a line for every flag that means something else here, had no effect there, or has no
    counterpart. Runs nothing from the script."""
    variables = {}
    for text in variable or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UserError(f"--variable {text}: write NAME=VALUE")
        variables[name.lstrip("$")] = value
    from opsd.recipe.files import next_steps, refuse_taken

    if output is not None:
        refuse_taken(output)
    with importing():
        from opsd.migrate.migrate import migrate as run
        from opsd.runs.files import write_atomically

    made = run(file, source, variables)
    if output is not None:
        write_atomically(output, made.text)
    if as_json:
        remarks = [vars(remark) for remark in made.remarks]
        print(json.dumps({"recipe": made.recipe, "remarks": remarks}, ensure_ascii=False))
    elif output is None:
        print(made.text, end="")
    else:
        print(*map(str, made.remarks), sep="\n")
        print(next_steps(output))
