"""The command of translation. It is thin: it imports what it needs when it runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from opsd.cli.arguments import Json, KeyVariable, Threads, importing, mapped, names, prepare
from opsd.types import UserError


def translate(
    source: Annotated[str, typer.Argument(help="A file of English problems, or a dataset.")],
    to: Annotated[str, typer.Option(help="Languages: codes, names or files, comma-separated.")],
    model: Annotated[
        str, typer.Option(help="A model that the endpoint knows; without an endpoint, one to load.")
    ],
    output: Annotated[
        Path, typer.Option(help="A folder; translations already there are not requested again.")
    ],
    endpoint: Annotated[
        str | None, typer.Option(help="The URL of an OpenAI-compatible endpoint.")
    ] = None,
    key_variable: KeyVariable = "OPENAI_API_KEY",
    column: Annotated[
        list[str] | None,
        typer.Option(help="Map a name to a column, as in prompt=question."),
    ] = None,
    config: Annotated[str | None, typer.Option(help="A dataset's configuration.")] = None,
    split: Annotated[str, typer.Option(help="A dataset's split.")] = "train",
    limit: Annotated[int | None, typer.Option(help="Only the first problems.", min=1)] = None,
    schema: Annotated[str, typer.Option(help="ours, copsd, or copsd-wide.")] = "ours",
    template: Annotated[
        str, typer.Option(help="The prompt template: a .jinja file, or the name of a shipped one.")
    ] = "translator",
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0)] = 0.0,
    max_tokens: Annotated[int, typer.Option(help="Tokens per reply.", min=1)] = 2048,
    concurrency: Annotated[int, typer.Option(help="Concurrent requests.", min=1)] = 8,
    rate: Annotated[float | None, typer.Option(help="Maximum requests per minute.")] = None,
    retries: Annotated[int, typer.Option(help="Retries after a failed request.", min=0)] = 5,
    timeout: Annotated[float, typer.Option(help="Seconds that one request may take.")] = 120.0,
    cache: Annotated[
        Path, typer.Option(help="The folder that keeps an endpoint's answers.")
    ] = Path(".opsd-translations"),
    code: Annotated[
        list[str] | None,
        typer.Option(help="The model's code for a language, as in swa=swh_Latn."),
    ] = None,
    back: Annotated[
        str | None, typer.Option(help="A model that translates back, for comparison.")
    ] = None,
    least_chrf: Annotated[
        float,
        typer.Option(help="The lowest chrF that a back-translation must reach, 0 to 100.", min=0),
    ] = 40.0,
    solver: Annotated[
        str | None, typer.Option(help="A model that solves translations, to compare the answer.")
    ] = None,
    check_endpoint: Annotated[
        str | None, typer.Option(help="The endpoint for --back and --solver; default: --endpoint.")
    ] = None,
    without: Annotated[str | None, typer.Option(help="Gates to turn off.")] = None,
    retry_rejected: Annotated[
        bool, typer.Option("--retry-rejected", help="Request rejected translations once more.")
    ] = False,
    price: Annotated[
        str | None, typer.Option(help="Dollars per million prompt, completion tokens: 0.1,0.4.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Counts tokens in advance; default: 4 bytes per token.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what would be requested, and what it would cost."),
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Translate a dataset of English problems, check the translations, and write training data.

    Accepted rows are in <output>/translated.jsonl; rejected ones, with the reasons, in
    rejected.jsonl."""
    from opsd.languages.registry import resolve
    from opsd.lm.names import refuse_unknown

    languages = [resolve(name) for name in names(to, "--to", "codes or names, as in swa,yor")]
    prices = _pair(price)
    for option, number in (("--rate", rate), ("--timeout", timeout)):
        if number is not None and not 0 < number < math.inf:
            raise UserError(f"{option} {number:g}: write a number above 0")
    if endpoint is None:
        refuse_unknown(model)
        prepare(threads)
    with importing():
        from opsd.data.problems import Data
        from opsd.translate.asking import Endpoint, Sampled
        from opsd.translate.checks import Checks
        from opsd.translate.run import Job, planned
        from opsd.translate.run import translate as run

    def at(url: str | None) -> Any:
        rest = (key_variable, concurrency, timeout, retries, rate, cache)
        return None if url is None else Endpoint(url, *rest)

    job = Job(
        Data(source=source, config=config, split=split, columns=mapped("--column", column or [])),
        tuple(dict.fromkeys(languages)),
        model,
        at(endpoint),
        template,
        Sampled(max_tokens, temperature),
        {
            resolve(name): token
            for name, token in mapped(
                "--code", code or [], "LANGUAGE=CODE, as in twi=aka_Latn"
            ).items()
        },
        back,
        solver,
        at(check_endpoint),
        Checks(tuple(names(without, "--without", "gates, as in names,length")), least_chrf),
        schema,
        prices,
        tokenizer,
        limit,
    )
    if dry_run:
        found = planned(job, output)
        print(json.dumps(found, ensure_ascii=False) if as_json else _shown(found))
        return
    report = run(job, output, retry_rejected=retry_rejected)
    if as_json:
        print(json.dumps(report, ensure_ascii=False))


def _pair(text: str | None) -> tuple[float, float]:
    if text is None:
        return 0.0, 0.0
    try:
        into, out = (float(part) for part in text.split(","))
    except ValueError:
        into = out = -1.0
    if not (0 <= into < math.inf and 0 <= out < math.inf):
        raise UserError(f"--price {text}: write two numbers of dollars, as in 0.1,0.4")
    return into, out


def _shown(found: dict[str, Any]) -> str:
    """The text of a dry run."""
    lines = [
        f"{found['problems']:,} problems into {', '.join(found['languages'])}:"
        f" {found['there']:,} translations exist, {found['missing']:,} are missing",
        f"about {found['requests']:,} requests, {found['prompt_tokens']:,} prompt tokens,"
        f" {found['completion_tokens']:,} completion tokens, ${found['cost']:.4f}",
    ]
    for message in found["prompt"] or ():
        lines += ["", f"the first request ({message['role']}):", "", message["content"]]
    return "\n".join(lines)
