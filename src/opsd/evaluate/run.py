"""Samples completions of problems, grades them, and writes both down as they come.

`samples.jsonl` has a row per completion, keyed by problem id and sample number; an evaluation that
was interrupted goes on with the missing ones. One generation at the largest budget serves the
smaller ones, which are its prefixes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from opsd.data.prompts import prompt_ids
from opsd.evaluate.metrics import (
    accuracy_given_format,
    avg_at_k,
    bootstrap_interval,
    format_rate,
    pass_at_k,
)
from opsd.grade.verifier import MathVerifier
from opsd.model import (
    context_length,
    eos_ids,
    load_model,
    load_tokenizer,
    resolve,
    vocabulary,
)
from opsd.progress_bar import counting
from opsd.rollout.engine import Sampling, prompt_seed
from opsd.rollout.hf import HFEngine
from opsd.run import RunFolder, log, read_jsonl, write_atomically
from opsd.teacher.context import StudentPrompt
from opsd.types import Finish, Problem, UserError

_PROBLEMS_PER_CALL = 32


@dataclass(frozen=True)
class Protocol:
    """How a model is asked: prompt, sampling, `samples` per problem, budgets in tokens, seed.

    `sampling.max_tokens` is the largest budget. Two results compare only under one protocol.
    """

    prompt: StudentPrompt
    sampling: Sampling
    samples: int
    budgets: tuple[int, ...]
    seed: int = 0
    after_think: bool = False


def evaluate(
    model: str, problems: Sequence[Problem], suite: str, protocol: Protocol, folder: Path
) -> dict[str, Any]:
    """Evaluates one model on one suite into `folder`; returns the content of `result.json`."""
    start = time.perf_counter()
    gradable = list({p.id: p for p in problems if p.answer}.values())
    if not gradable:
        raise UserError(f"{suite}: no problem has an answer to grade against")
    if len(gradable) < len(problems):
        out = len(problems) - len(gradable)
        log(f"{suite}: {out} of {len(problems)} problems left out: no answer, or given twice")
    _claim(folder, protocol, model, gradable)
    done = _done(folder)
    todo = [(p, i) for p in gradable for i in range(protocol.samples) if (p.id, i) not in done]
    if todo:
        _sample(model, suite, todo, protocol, RunFolder(folder))
    rows = list(read_jsonl(folder / "samples.jsonl"))
    results = [
        result
        for budget in protocol.budgets
        for result in _results(model, suite, gradable, rows, budget, protocol.samples)
    ]
    outcome = {"seconds": round(time.perf_counter() - start, 2), "results": results}
    write_atomically(folder / "result.json", json.dumps(outcome, indent=1, ensure_ascii=False))
    return outcome


def _sample(
    model: str,
    suite: str,
    todo: Sequence[tuple[Problem, int]],
    protocol: Protocol,
    folder: RunFolder,
) -> None:
    network, tokenizer = load_model(model), load_tokenizer(model)
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    engine = HFEngine(
        network,
        eos_ids=eos_ids(network, tokenizer),
        pad_id=tokenizer.pad_token_id,
        vocab=vocabulary(tokenizer),
    )
    limit = context_length(network, 10**9)
    verifier = MathVerifier(after_think=protocol.after_think)
    with counting(f"{model} on {suite}", len(todo), "sample") as advance:
        size = _PROBLEMS_PER_CALL * protocol.samples
        for start in range(0, len(todo), size):
            part = todo[start : start + size]
            prompts = [_prompt(p, protocol, tokenizer, limit) for p, _ in part]
            seeds = [prompt_seed(protocol.seed, 0, p.id, i, "evaluate") for p, i in part]
            completions = engine.generate(prompts, protocol.sampling, seeds, advance)
            folder.append(
                "samples.jsonl",
                [
                    _row(model, suite, p, i, c.ids, c.finish, tokenizer, verifier, protocol)
                    for (p, i), c in zip(part, completions, strict=True)
                ],
            )


def _prompt(problem: Problem, protocol: Protocol, tokenizer: Any, limit: int) -> tuple[int, ...]:
    view = protocol.prompt.view(problem)
    ids = prompt_ids(tokenizer, view)
    if len(ids) + protocol.sampling.max_tokens > limit:
        raise UserError(
            f"problem {problem.id}: its prompt has {len(ids)} tokens, with a budget of"
            f" {protocol.sampling.max_tokens} more than the model's {limit}; lower --budget"
        )
    return ids


def _row(
    model: str,
    suite: str,
    problem: Problem,
    sample: int,
    ids: Sequence[int],
    finish: Finish,
    tokenizer: Any,
    verifier: MathVerifier,
    protocol: Protocol,
) -> dict[str, Any]:
    """One sample, judged at every budget: what it has said by then."""
    budgets = {}
    for budget in protocol.budgets:
        text = tokenizer.decode(ids[:budget], skip_special_tokens=True)
        verdict = verifier(problem, text)
        cut_off = len(ids) > budget or finish is Finish.LENGTH
        budgets[str(budget)] = {
            "correct": verdict.correct,
            "format_ok": verdict.format_ok,
            "cut_off": cut_off,
        }
    return {
        "model": model,
        "suite": suite,
        "language": problem.language,
        "problem": problem.id,
        "sample": sample,
        "prompt": problem.text,
        "answer": problem.answer,
        "completion": tokenizer.decode(ids, skip_special_tokens=True),
        "tokens": len(ids),
        "finish": finish.value,
        "budgets": budgets,
    }


def _results(
    model: str,
    suite: str,
    problems: Sequence[Problem],
    rows: Sequence[dict[str, Any]],
    budget: int,
    samples: int,
) -> list[dict[str, Any]]:
    """One result per language."""
    by_problem: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_problem[row["problem"]].append(row["budgets"][str(budget)])
    results = []
    for language in dict.fromkeys(p.language for p in problems):
        judged = [by_problem[p.id] for p in problems if p.language == language]
        correct = [[s["correct"] for s in group] for group in judged]
        formed = [s["format_ok"] for group in judged for s in group]
        averages = [avg_at_k(group) for group in correct]
        results.append(
            {
                "model": model,
                "suite": suite,
                "language": language,
                "labels": "as given",
                "budget": budget,
                "n_problems": len(judged),
                "samples": samples,
                "avg@k": sum(averages) / len(averages),
                "pass@k": sum(pass_at_k(len(c), sum(c), len(c)) for c in correct) / len(correct),
                "format_rate": format_rate(formed),
                "accuracy_given_format": accuracy_given_format(
                    [right for group in correct for right in group], formed
                ),
                "cut_off": sum(s["cut_off"] for g in judged for s in g) / len(formed),
                "interval": list(bootstrap_interval(averages)),
            }
        )
    return results


def _claim(folder: Path, protocol: Protocol, model: str, problems: Sequence[Problem]) -> None:
    """Refuses to mix, in one folder, samples of other weights, of other problems, or drawn in
    another way."""
    weights = sorted(Path(resolve(model)).glob("*.safetensors"))
    content = {
        "model": model,
        "weights": [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in weights],
        "problems": hashlib.sha256("".join(p.id for p in problems).encode()).hexdigest()[:16],
        "protocol": asdict(protocol),
    }
    about = json.dumps(content, indent=1, sort_keys=True)
    written = folder / "protocol.json"
    if written.is_file() and written.read_text("utf-8") != about:
        raise UserError(
            f"{folder} holds samples of other weights, of other problems, or drawn in another way"
            f" (see {written}); choose another --output"
        )
    write_atomically(written, about)


def _done(folder: Path) -> set[tuple[str, int]]:
    """What is there already; a half-written last line is cut off, so that appending is safe."""
    path = folder / "samples.jsonl"
    if not path.is_file():
        return set()
    whole = path.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        RunFolder(folder).cut_back({"samples.jsonl": end})
    return {(row["problem"], row["sample"]) for row in read_jsonl(path)}


def budgets_protocol(
    prompt: StudentPrompt, sampling: Sampling, samples: int, budgets: Sequence[int], **rest: Any
) -> Protocol:
    """A protocol that samples once, at the largest of the budgets."""
    ordered = tuple(sorted(set(budgets)))
    return Protocol(prompt, replace(sampling, max_tokens=ordered[-1]), samples, ordered, **rest)
