"""The command that starts trainers and engines on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opsd.cli.arguments import RecipeName, Settings, importing, load_recipe


def launch(
    recipe: RecipeName,
    trainers: Annotated[int, typer.Option(help="Number of training ranks.", min=1)] = 1,
    engines: Annotated[
        int, typer.Option(help="Number of vLLM servers; 0: the recipe's own engine.", min=0)
    ] = 1,
    address: Annotated[
        str,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="A Ray cluster: HOST:PORT, auto (this machine's), or local (a new one).",
        ),
    ] = "local",
    output: Annotated[
        Path | None, typer.Option(help="Run folder, on a disk that all machines can access.")
    ] = None,
    set_: Settings = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest complete checkpoint.")
    ] = False,
    config: Annotated[
        str | None,
        typer.Option(help="How ranks are set up: ddp, fsdp2, or an accelerate config file."),
    ] = None,
    engine_command: Annotated[
        str, typer.Option(help="The command that starts a server; model and options are appended.")
    ] = "vllm serve",
    strategy: Annotated[
        str,
        typer.Option(help="Ray's placement strategy: PACK, SPREAD, STRICT_PACK or STRICT_SPREAD."),
    ] = "PACK",
    max_restarts: Annotated[
        int, typer.Option(help="How often lost ranks are restarted.", min=0)
    ] = 3,
) -> None:
    """Train with Ray: places trainers and engines, and restarts lost ones."""
    loaded = load_recipe(recipe, set_ or ())
    with importing():
        from opsd.launch.plan import Plan
        from opsd.launch.supervise import launch as run
        from opsd.recipe.content import refuse_unwritten
        from opsd.recipe.files import output_of

    refuse_unwritten(recipe)
    folder = (output or output_of(recipe)).resolve()
    plan = Plan(
        name=recipe,
        recipe=loaded,
        output=folder,
        settings=tuple(set_ or ()),
        trainers=trainers,
        engines=engines,
        engine_command=engine_command,
        config=config,
        strategy=strategy,
        max_restarts=max_restarts,
    )
    raise typer.Exit(run(plan, address, resume=resume))
