"""The command that starts trainers and engines on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opsd.cli.arguments import RecipeName, Settings, importing, load_recipe


def launch(
    recipe: RecipeName,
    trainers: Annotated[int, typer.Option(help="Ranks of the training.", min=1)] = 1,
    engines: Annotated[
        int, typer.Option(help="vLLM servers; 0: the recipe's own engine.", min=0)
    ] = 1,
    address: Annotated[
        str,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="A Ray cluster: HOST:PORT, auto (the one of this machine), or local (a new one).",
        ),
    ] = "local",
    output: Annotated[
        Path | None, typer.Option(help="Run folder, on a disk that all machines see.")
    ] = None,
    set_: Settings = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest complete checkpoint.")
    ] = False,
    config: Annotated[
        str | None, typer.Option(help="How ranks share: ddp, fsdp2, or a file for accelerate.")
    ] = None,
    engine_command: Annotated[
        str, typer.Option(help="What starts a server; model and options are added.")
    ] = "vllm serve",
    strategy: Annotated[
        str, typer.Option(help="Of Ray's placement group: PACK, SPREAD, or STRICT_ of both.")
    ] = "PACK",
    max_restarts: Annotated[
        int, typer.Option(help="How often lost ranks are started again.", min=0)
    ] = 3,
) -> None:
    """Train with Ray: places trainers and engines, and starts again what is lost."""
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
