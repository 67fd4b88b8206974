"""The commands of evaluation. They are thin: each imports what it needs when it runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from opsd.cli.arguments import (
    AskAs,
    Columns,
    DataDir,
    EndpointURL,
    EngineName,
    Json,
    KeyVariable,
    Languages,
    Limit,
    Plain,
    SkipLong,
    Suite,
    Threads,
    Timeout,
    columns,
    importing,
    names,
    numbers,
    prepare,
    tables,
)
from opsd.types import UserError


def evaluate(
    models: Annotated[
        list[str], typer.Argument(help="Models, adapters or runs: names or folders.")
    ],
    suite: Suite = None,
    data: Annotated[
        str | None, typer.Option(help="Instead of a suite: your own file, a dataset, or miniature.")
    ] = None,
    data_dir: DataDir = None,
    language: Languages = None,
    split: Annotated[
        str | None, typer.Option(help="The split of your dataset, or parts of a suite.")
    ] = None,
    column: Columns = None,
    limit: Limit = None,
    samples: Annotated[int | None, typer.Option(help="Completions per problem.", min=1)] = None,
    budget: Annotated[str | None, typer.Option(help="Token budgets, comma-separated.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.", min=0)] = None,
    top_p: Annotated[float | None, typer.Option(help="Above 0, at most 1.")] = None,
    thinking: Annotated[
        bool | None, typer.Option(help="Turn the chat template's thinking on or off.")
    ] = None,
    plain: Plain = False,
    recipe: AskAs = None,
    verifier: Annotated[
        str | None,
        typer.Option(help="The verifier: a shipped name, package.module:Name, or {type: ...}."),
    ] = None,
    skip_long: SkipLong = False,
    seed: Annotated[int, typer.Option()] = 0,
    output: Annotated[
        Path | None,
        typer.Option(help="Results go to <output>/<model>/<suite>/; default: the run's eval/."),
    ] = None,
    engine: EngineName = "hf",
    endpoint: EndpointURL = None,
    key_variable: KeyVariable = "OPENAI_API_KEY",
    timeout: Timeout = 600.0,
    threads: Threads = None,
    regrade: Annotated[
        bool,
        typer.Option(
            "--regrade", help="Grade the samples in these folders again; generate nothing."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Sample and grade: avg@k, pass@k, format rate, with intervals. Continues where it stopped.

    Defaults are the settings of the suite's published numbers, else 4 x 1,024 tokens."""
    if regrade:
        from opsd.evaluate.regrade import regrade as again

        with tables(as_json):
            outcome = again([Path(folder) for folder in models])
        if as_json:
            print(json.dumps(outcome, ensure_ascii=False))
        return
    spoken = names(language, "--language", "codes or names, as in swa,yor; or all")
    budgets = numbers(budget, "--budget", "whole numbers of tokens, as in 1024,2048")
    splits = names(split, "--split", "splits, as in low,medium")
    _check_names(models if endpoint is None else [], suite, recipe, spoken, splits)
    prepare(threads)
    with importing():
        from opsd.evaluate.command import evaluate_models
        from opsd.grade.verifiers import verifier as read_verifier

    with tables(as_json):
        outcome = evaluate_models(
            models,
            suite=suite,
            data=data,
            data_dir=data_dir,
            languages=spoken,
            columns=columns(column or []),
            splits=splits,
            limit=limit,
            samples=samples,
            budgets=budgets,
            temperature=temperature,
            top_p=top_p,
            thinking=thinking,
            plain=plain,
            recipe=recipe,
            skip_long=skip_long,
            seed=seed,
            output=output,
            engine=_engine(engine, endpoint, key_variable, timeout),
            verifier=None if verifier is None else read_verifier(verifier),
        )
    if as_json:
        print(json.dumps(outcome, ensure_ascii=False))


def _check_names(
    models: Sequence[str],
    suite: str | None,
    recipe: str | None,
    languages: Sequence[str],
    splits: Sequence[str],
) -> None:
    """Raises UserError for an unknown name, before torch is imported."""
    from opsd.languages.registry import resolve
    from opsd.lm.names import refuse_unknown
    from opsd.recipe.files import find
    from opsd.suites.loading import ALL, parts
    from opsd.suites.loading import suite as named

    if suite is not None:
        parts(named(suite), splits)
    for model in models:
        refuse_unknown(model)
    for language in languages:
        if language != ALL:
            resolve(language)
    if recipe is not None:
        find(recipe)


def _engine(name: str, endpoint: str | None, key_variable: str, timeout: float) -> Any:
    """The engine or endpoint that generates; None for generation with Transformers."""
    from opsd.evaluate.remote import Endpoint
    from opsd.rollout.engines import VLLM

    if name not in ("hf", "vllm"):
        raise UserError(f"--engine {name}: write hf or vllm")
    if endpoint is not None and name != "hf":
        raise UserError("--engine and --endpoint: the endpoint already generates; leave one out")
    if endpoint is not None:
        return Endpoint(endpoint, key_variable, timeout=timeout)
    return VLLM(gpu_memory_utilization=0.9) if name == "vllm" else None


def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders that `opsd evaluate` wrote; the first is the base."),
    ],
    common: Annotated[
        bool, typer.Option("--common", help="Use only problems that all models have answered.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare models on the same problems: paired differences with intervals."""
    from opsd.evaluate.compare import compare as run

    with tables(as_json):
        outcome = run(folders, common=common)
    if as_json:
        print(json.dumps(outcome, ensure_ascii=False))


def grade(
    completion: Annotated[
        str, typer.Argument(help="A model's completion; `-` reads standard input.")
    ],
    answer: Annotated[str, typer.Option(help="The right answer, or a worked solution.")],
    language: Annotated[
        str, typer.Option(help="The problem's language: how numbers are read.")
    ] = "eng",
    after_think: Annotated[
        bool, typer.Option("--after-think", help="Only the text after </think> counts.")
    ] = False,
    why: Annotated[bool, typer.Option("--explain", help="Explain the verdict.")] = False,
) -> None:
    """Grade one answer, as rewards and evaluation do."""
    from opsd.grade.answer import gold_answer
    from opsd.grade.explain import explain
    from opsd.grade.format import last_box
    from opsd.languages.registry import resolve
    from opsd.types import Problem

    answer = _utf8(os.fsencode(answer), "--answer")
    problem = Problem("", answer=answer, language=resolve(language))
    gold = gold_answer(answer)
    place, boxed = last_box(gold)
    if not gold or (place >= 0 and not boxed):
        raise UserError(f"--answer '{answer.strip()}' is empty: there is nothing to grade against")
    if completion == "-":
        text = _utf8(sys.stdin.buffer.read(), "standard input")
    else:
        text = _utf8(os.fsencode(completion), "the completion")
    verdict, steps = explain(problem, text, after_think)
    print(steps if why else "right" if verdict.correct else "wrong")


def _utf8(said: bytes, where: str) -> str:
    try:
        return said.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 (byte {error.start + 1:,}): {error.reason}"
        ) from error


def convert(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `opsd evaluate` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the files.")],
    layout: Annotated[str, typer.Option(help="lm-eval or lighteval.")] = "lm-eval",
) -> None:
    """Write samples and scores in the layout of another evaluation tool."""
    from opsd.evaluate.layouts import convert as run

    run(folders, layout, output)
