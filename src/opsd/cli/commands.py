"""The command line. It is thin: every command imports what it needs when it runs.

Exit codes: 0 done, 1 failed, 2 wrong input (one line says what is wrong, and how to fix it), 130
interrupted.
"""

from __future__ import annotations

import atexit
import codecs
import gc
import io
import json
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from opsd.cli import data, evaluation, launch, migration, translation
from opsd.cli.arguments import (
    Json,
    RecipeName,
    Settings,
    Threads,
    importing,
    known_methods,
    known_recipes,
    load_recipe,
    mapped,
    numbers,
    prepare,
    tables,
)
from opsd.cli.failures import shown, told
from opsd.cli.interruption import INTERRUPTED
from opsd.runs.environment import VERSION
from opsd.types import UserError

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="On-policy self-distillation of language models.",
)

languages_app = typer.Typer(
    invoke_without_command=True,
    help="List the languages and their status; check a language file.",
)
app.add_typer(languages_app, name="languages")
app.add_typer(data.app, name="data")


def _version(asked: bool) -> None:
    if asked:
        print(VERSION)
        raise typer.Exit


@app.callback()
def _opsd(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """On-policy self-distillation of language models."""


@app.command()
def init(
    output: Annotated[Path, typer.Argument(help="The recipe to write.")] = Path("recipe.yaml"),
    model: Annotated[
        str | None, typer.Option(help="A Hub name, a folder, or a built-in model.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A file of problems, or a dataset of the Hub.")
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="Codes or names, comma-separated; rows: each row names its own."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Default: chosen from the columns.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="Map a name to a column, as in answer=final_answer."),
    ] = None,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", help="Ask nothing: use the default for every option not given."
        ),
    ] = False,
) -> None:
    """Write a recipe: asks for model, data and language, and looks at the data's columns."""
    from opsd.cli.init import init as run

    asks = not yes and sys.stdin.isatty()

    def answer(question: str, given: str | None, default: str) -> str:
        if given is not None or not asks:
            return default if given is None else given
        return typer.prompt(question, default or None, err=True)

    run(output, model, data, language, method, mapped("--column", column or []), answer)


@app.command()
def quickstart(
    full: Annotated[
        bool, typer.Option("--full", help="All low-resource languages, three seeds.")
    ] = False,
    output: Annotated[Path, typer.Option(help="The folder for the runs.")] = Path(
        "runs/quickstart"
    ),
    as_json: Json = False,
) -> None:
    """Watch a small built-in model learn: base, GRPO and COPSD at equal generated tokens."""
    with importing():
        from opsd.experiments.quickstart import FULL, SHORT, run

    with tables(as_json):
        result = run(output, FULL if full else SHORT)
    if as_json:
        print(json.dumps(result))


@app.command()
def train(
    recipe: RecipeName,
    output: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/<recipe>, or the run's own.")
    ] = None,
    set_: Settings = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest complete checkpoint.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also record where the time of one step goes.")
    ] = False,
    threads: Threads = None,
) -> None:
    """Train a model from a recipe.

    On several GPUs: accelerate launch --config_file $(opsd launcher fsdp2) -m opsd train RECIPE
    """
    with importing():
        from opsd.recipe.content import refuse_unwritten
        from opsd.recipe.files import output_of
        from opsd.runs.folder import RunFolder

    refuse_unwritten(recipe)
    folder = output or output_of(recipe)
    if not resume and os.environ.get("RANK", "0") == "0":
        RunFolder(folder).refuse_taken()
    loaded = load_recipe(recipe, set_ or ())
    prepare(threads)
    with importing():
        from opsd.recipe.train import train as run
        from opsd.recipe.train import train_pair

    (train_pair if loaded.peers else run)(loaded, folder, resume=resume, profile=profile)


@app.command("serve-teacher")
def serve_teacher(
    model: Annotated[
        str, typer.Argument(help="A folder, a Hub name, a GGUF file, an adapter or a built-in.")
    ],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 picks a free port.", min=0, max=65535)] = 8001,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16. Default: the checkpoint's."),
    ] = None,
    attn_implementation: Annotated[
        str | None, typer.Option(help="As in Transformers: sdpa, flash_attention_2, ...")
    ] = None,
    max_num_batched_tokens: Annotated[
        int, typer.Option(help="Tokens per forward pass, including padding.", min=1)
    ] = 16_384,
    threads: Threads = None,
) -> None:
    """Serve another model as a teacher: hidden states of the tokens that a run learns from.

    In a recipe, name it with teacher weights {type: served, url: http://HOST:PORT}. The server
    asks for no password: keep it on this machine, or in a private network."""
    from opsd.lm.names import refuse_unknown

    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise UserError(f"--dtype {dtype}: write float32, bfloat16 or float16")
    refuse_unknown(model)
    prepare(threads)
    with importing():
        from opsd.teacher.server import serve

    serve(model, host, port, max_num_batched_tokens, dtype, attn_implementation)


@app.command()
def preview(
    recipe: RecipeName,
    set_: Settings = None,
    rows: Annotated[int, typer.Option(help="Rows to show token by token.", min=0)] = 2,
    ids: Annotated[bool, typer.Option("--ids", help="Also show every token's id.")] = False,
    measure: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Also load the model, and measure on N problems what its teacher knows and would"
            " teach.",
            min=0,
        ),
    ] = 0,
    html: Annotated[
        Path | None, typer.Option(help="Write an HTML page to this file instead.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what student and teacher will read for real rows, before any training."""
    loaded = load_recipe(recipe, set_ or ())
    prepare(None)
    with importing():
        from opsd.preview.rows import preview as look
        from opsd.preview.text import show

    content = look(loaded, rows)
    if measure:
        from opsd.preview.measure import measure as measured

        content["measured"] = measured(loaded, measure)
    if as_json:
        print(json.dumps(content, ensure_ascii=False))
    elif html is not None:
        from opsd.preview.page import write_preview

        print(write_preview(content, html))
    else:
        show(content, ids)


for command in (evaluation.evaluate, evaluation.compare, evaluation.grade, evaluation.convert):
    app.command()(command)


app.command()(launch.launch)
app.command()(translation.translate)
app.command()(migration.migrate)


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(help="Show one method in full.", autocompletion=known_methods)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the methods: parts, paper and recipes of each."""
    from opsd.recipe.names import methods as known
    from opsd.validation import unknown

    if name is not None and name not in known():
        raise UserError(unknown("method", name, known()))
    with importing():
        from opsd.cli.catalogue import listing, show

    if as_json:
        print(json.dumps(listing(name), ensure_ascii=False))
    else:
        show(name)


@app.command()
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="Print the file of one recipe.", autocompletion=known_recipes),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the shipped recipes: method, model, and whether a paper prints numbers for each."""
    from opsd.cli.recipes import listing, show

    if as_json:
        print(json.dumps(listing(name), ensure_ascii=False))
    else:
        show(name)


@app.command()
def reproduce(
    claims: Annotated[
        list[str] | None, typer.Argument(help="Claims or studies; default: all.")
    ] = None,
    output: Annotated[
        Path, typer.Option(help="The folder for trials; those already there are not run again.")
    ] = Path("runs/reproduce"),
    model: Annotated[
        str | None,
        typer.Option(help="The folder of a pretrained model for which there is a study."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            help="Also write this page as Markdown, HTML and JSON, side by side: about the built-in"
            " models, or with --model about the pretrained ones."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Test the papers' claims in the built-in world, or on a pretrained model, and compute a
    verdict on each from the run."""
    with importing():
        from opsd.experiments.reproduce import reproduce as run
        from opsd.experiments.study import built_in, on_model, studies

    known = built_in(studies()) if model is None else on_model(studies(), model)
    with tables(as_json):
        rows = run(claims or [], known, output)
    if page is not None:
        from opsd.experiments.claims_page import write

        shown = {n: s for n, s in studies().items() if s.pretrained == (model is not None)}
        write(output, shown, page)
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))


@languages_app.callback()
def languages(context: typer.Context, as_json: Json = False) -> None:
    """List the languages: script, decimal mark, use, and whether a speaker has read each."""
    from opsd.cli.languages import listing, show

    if context.invoked_subcommand is not None:
        return
    if as_json:
        print(json.dumps(listing(), ensure_ascii=False))
    else:
        show()


@languages_app.command()
def check(path: Annotated[Path, typer.Argument(help="A language file, .yaml.")]) -> None:
    """Report what is wrong with a language file, line by line."""
    from opsd.cli.languages import check_file

    check_file(path)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or checkpoints in them.")],
    output: Annotated[
        Path | None, typer.Option(help="Default: report.html in the first folder.")
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option(help="A folder for all tables (CSV, Markdown, LaTeX) and figures (SVG, PNG)."),
    ] = None,
) -> None:
    """Write curves and tables of one or more runs to one self-contained HTML file."""
    from opsd.report.page import write_report
    from opsd.runs.folder import run_of

    runs = [run_of(run) for run in runs]
    if files is not None:
        from opsd.report.export import export

        export(runs, files)
    print(write_report(runs, output or runs[0] / "report.html"))


@app.command()
def inspect(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, checkpoints, or a folder of runs.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Default: inspect.html in the first folder.")
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="Only the traces of these steps, comma-separated.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="First make traces from the checkpoints of these steps, comma-separated."
        ),
    ] = None,
    problems: Annotated[
        int, typer.Option(help="Problems that each checkpoint answers.", min=1)
    ] = 8,
    threads: Threads = None,
) -> None:
    """Show what the teacher says of a run's rollouts, token by token, in one HTML file.

    A checkpoint's folder stands for its run, with traces made from that checkpoint."""
    from opsd.inspect.page import write_inspector
    from opsd.runs.folder import run_of, step_of

    chosen = numbers(steps, "--steps", "steps, as in 1,101", least=0)
    stops = numbers(checkpoint, "--checkpoint", "steps, as in 0,100", least=0)
    asked: dict[Path, list[int]] = {}
    for folder in runs:
        asked.setdefault(run_of(folder), []).extend([*stops, *step_of(folder)])
    for run, own in asked.items():
        if own:
            prepare(threads)
            from opsd.recipe.retrace import retrace

            retrace(run, own, problems)
    first, *_ = asked
    print(write_inspector(list(asked), output or first / "inspect.html", chosen))


@app.command()
def export(
    source: Annotated[str, typer.Argument(help="A run, a checkpoint, an adapter or a model.")],
    output: Annotated[Path, typer.Argument(help="A new folder.")],
    merge: Annotated[
        bool, typer.Option("--merge/--adapter", help="Merge into the base, or keep the adapter.")
    ] = True,
    dtype: Annotated[
        str | None, typer.Option(help="The merged model's dtype; default: the base's.")
    ] = None,
    max_shard: Annotated[str, typer.Option(help="Maximum size of a weights file.")] = "5GB",
    push: Annotated[
        str | None, typer.Option(help="Push to this repository on the Hub: ME/NAME.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
) -> None:
    """Write a trained model to a new folder, merged or as an adapter; push it to the Hub."""
    from opsd.lm.names import refuse_unknown

    refuse_unknown(source)
    prepare(None)
    from opsd.publish.export import export as write

    options = {"dtype": dtype, "max_shard": max_shard, "trust_remote_code": trust_remote_code}
    write(source, output, merge=merge, repository=push, **options)
    if push:
        from opsd.publish.hub import push as send

        print(send(output, push, private=private))


@app.command()
def launcher(name: Annotated[str, typer.Argument(help="ddp, fsdp2 or zero2.")]) -> None:
    """Print the path of a configuration for `accelerate launch`, to train on several GPUs."""
    from opsd.recipe.files import launcher as find

    print(find(name))


@app.command()
def env() -> None:
    """Print versions and hardware, for bug reports."""
    from opsd.runs.environment import environment

    print(json.dumps(environment(), indent=1))


def main() -> None:
    """Runs the command line. An error becomes one line and an exit code, unless it is a bug of
    opsd."""
    # No process is forked here while a tokenizer runs, and the warning about this confuses users.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that spin while they wait slow a run tenfold on a machine with other load.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    atexit.register(_leave)
    _print_whatever_the_terminal()
    try:
        app()
    except SystemExit as end:
        if end.code == 130:
            print(INTERRUPTED, file=sys.stderr)
        _flush(end)
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        _end(error)


def _flush(end: SystemExit) -> NoReturn:
    """Flushes standard output before the exit, since writing can still fail."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _end(error)
    raise end


def _end(error: Exception) -> NoReturn:
    known = told(error)
    if known is None:
        raise error
    line, code = known
    if isinstance(error, BrokenPipeError):
        # The reader of a pipe, as in `opsd methods | head -1`, has ended; Python would try to write
        # once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        print(f"opsd: {shown(line)}", file=sys.stderr)
    sys.exit(code)


def _print_whatever_the_terminal() -> None:
    """Prints characters that the terminal's encoding lacks as JSON escapes, so that a JSON document
    stays valid."""

    def escaped(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        return json.dumps(error.object[error.start : error.end])[1:-1], error.end

    codecs.register_error("as-json", escaped)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="as-json")


def _leave() -> None:
    """Skips Python's garbage collection over all modules at its exit, which takes 0.3 s with torch.
    Only Triton needs it: without it, Triton's bindings report every object as a leak."""
    (gc.unfreeze if "triton" in sys.modules else gc.freeze)()
