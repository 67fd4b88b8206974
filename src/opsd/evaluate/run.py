"""Samples completions of problems, grades them, and writes both to disk as they come.

An interrupted evaluation continues with the missing samples; more samples, problems or languages
are added to the existing ones.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from opsd.console import counting, log
from opsd.evaluate.remote import Endpoint, Pieces, draw
from opsd.evaluate.results import results, write
from opsd.evaluate.samples import (
    SAMPLES,
    Protocol,
    Row,
    Sample,
    described,
    done,
    judged_rows,
    keyed,
    locked,
    sample_rows,
)
from opsd.lm.loading import (
    context_length,
    load_model,
    load_tokenizer,
    refuse_other_tokenizer,
    vocabulary,
)
from opsd.prompts.boundary import eos_ids
from opsd.prompts.prompt import read
from opsd.rollout.engine import Completion, Engine, EngineChoice, EngineSetup, at_work, prompt_seed
from opsd.rollout.engines import HF
from opsd.runs.disk import writing
from opsd.runs.folder import RunFolder
from opsd.types import Problem, UserError

Item = tuple[str, int]
"""One sample to draw: the problem's key and the sample's number."""

# How many tokens (prompts and budgets together) are generated at once, and how many times as many
# are written together: few enough on a CPU that rows come every minute or so, and that a killed
# process loses little. vLLM itself decides how many it generates at once.
_GPU_TOKENS, _CPU_TOKENS, _TURNS = 65_536, 8_192, 4
_VLLM_TOKENS = 16 * _GPU_TOKENS


def evaluate(
    model: str,
    problems: Sequence[Problem],
    suite: str,
    protocol: Protocol,
    samples: int,
    folder: Path,
    *,
    source: str = "",
    splits: Mapping[str, float] | None = None,
    aside: Sequence[str] | None = None,
    trained_on: Mapping[str, int] | None = None,
    skip_long: bool = False,
    engine: Endpoint | EngineChoice | None = None,
) -> dict[str, Any]:
    """Evaluates one model on one suite into `folder`, with `samples` completions per problem, and
    returns the results on these problems, which `result.json` keeps next to those of other
    languages. `source` distinguishes a suite from another one of the same name; `splits` are the
    weights of its splits, `aside` the languages that are not in its mean. `trained_on` is how many
    problems of each language the model is known to have been trained on. `engine` generates;
    without one, the model generates with Transformers. At an endpoint, `model` is a name that the
    server knows.

    Raises UserError for a prompt that leaves no room for the budget, unless `skip_long` leaves such
    problems out.
    """
    start = time.perf_counter()
    needed = getattr(protocol.verifier, "needs_answer", False)
    gradable = keyed(p for p in problems if p.answer or not needed)
    if not gradable:
        raise UserError(f"{suite}: no problem has an answer to grade against")
    if len(gradable) < len(problems):
        out = len(problems) - len(gradable)
        log(f"{suite}: {out} of {len(problems)} problems left out: no answer")
    order = {key: number for number, key in enumerate(gradable)}
    spoken = [problem.language for problem in gradable.values()]
    claim = described(protocol, model, spoken, source, splits, aside)
    with writing(folder), locked(folder, claim):
        # The samples of a problem are neighbours: their prompts need no padding.
        plan = [(key, i) for key in gradable for i in range(samples)]
        missing = set(plan) - done(folder)
        if missing and isinstance(engine, Endpoint):
            _ask(engine, model, suite, gradable, protocol, sorted(missing), RunFolder(folder))
        elif missing:
            network, tokenizer = load_model(model), load_tokenizer(model)
            refuse_other_tokenizer(network, tokenizer)
            sampler = _Sampler(
                *(model, suite, gradable, protocol, RunFolder(folder), network, tokenizer),
                choice=engine or HF(),
            )
            sampler.run(plan, missing, skip_long)
        rows = [row for row in judged_rows(folder) if row["problem"] in order]
        rows.sort(key=lambda row: (order[row["problem"]], row["sample"]))
        made = results(model, suite, rows, protocol.budgets, samples, splits)
        if trained_on is not None:
            made = [row | {"trained_on": trained_on[row["language"]]} for row in made]
        outcome = {"seconds": round(time.perf_counter() - start, 2), "results": made}
        write(folder, outcome["seconds"], made)
    return outcome


def _ask(
    endpoint: Endpoint,
    model: str,
    suite: str,
    problems: Mapping[str, Problem],
    protocol: Protocol,
    missing: Sequence[Item],
    folder: RunFolder,
) -> None:
    right: Counter[bool] = Counter()

    def keep(item: Item, completion: Completion) -> str:
        about = {"model": model, "suite": suite, "problem": item[0], "sample": item[1]}
        (row,) = sample_rows([Sample(about, problems[item[0]], completion)], Pieces(), protocol)
        folder.append(SAMPLES, [row])
        right.update([right_of(row)])
        return so_far(right)

    draw(endpoint, model, protocol, problems, missing, keep)


def batches(plan: Sequence[Item], widths: Mapping[str, int], tokens: int) -> Iterator[list[Item]]:
    """Yields the plan in batches of at most `tokens` tokens; `widths` are the tokens of each
    problem's prompt and budget together. Batches depend only on the plan, not on what is missing:
    a resumed evaluation draws each sample in the same batch, which rounding in the model depends
    on."""
    batch: list[Item] = []
    widest = 0
    for item in plan:
        widest = max(widest, widths[item[0]])
        if batch and (len(batch) + 1) * widest > tokens:
            yield batch
            batch, widest = [], widths[item[0]]
        batch.append(item)
    if batch:
        yield batch


@dataclass
class _Sampler:
    """Draws one model's samples on one suite."""

    model: str
    suite: str
    problems: Mapping[str, Problem]
    protocol: Protocol
    folder: RunFolder
    network: Any
    tokenizer: Any
    choice: EngineChoice
    right: Counter[bool] = field(default_factory=Counter)

    def run(self, plan: Sequence[Item], missing: set[Item], skip_long: bool) -> None:
        """Draws, grades and stores the missing samples. A batch is graded while the next one is
        generated."""
        prompts = self.prompts(context_length(self.network, 10**9), skip_long)
        plan = [item for item in plan if item[0] in prompts]
        missing = missing.intersection(plan)
        if not missing:
            return
        longest = max(map(len, prompts.values())) + self.protocol.sampling.max_tokens
        engine, tokens = make_engine(self.network, self.tokenizer, self.choice, longest)
        start = time.perf_counter()
        with (
            counting(f"{self.model} on {self.suite}", len(missing), "sample") as advance,
            ThreadPoolExecutor(1) as grader,
        ):
            drawn, graded = 0, None
            for items in self.missing_batches(plan, prompts, missing, tokens):
                completions = engine.generate(
                    [prompts[key] for key, _ in items],
                    self.protocol.sampling,
                    [prompt_seed(self.protocol.seed, 0, key, i, "evaluate") for key, i in items],
                    advance,
                )
                drawn += sum(len(c.ids) for c in completions)
                if graded is not None:
                    advance(0, 0, so_far(graded.result()))
                graded = grader.submit(self.write_down, items, completions)
            if graded is not None:
                log(f"{self.model} on {self.suite}: {so_far(graded.result())}")
        seconds = time.perf_counter() - start
        log(
            f"{self.model} on {self.suite}: {len(missing):,} samples, {drawn:,} tokens in"
            f" {seconds:,.1f} s ({len(missing) / seconds:,.1f} samples/s,"
            f" {drawn / seconds:,.0f} tokens/s)"
        )

    def missing_batches(
        self,
        plan: Sequence[Item],
        prompts: Mapping[str, Sequence[int]],
        missing: set[Item],
        tokens: int,
    ) -> Iterator[list[Item]]:
        """Yields the missing items of each batch of the plan."""
        budget = self.protocol.sampling.max_tokens
        widths = {key: len(ids) + budget for key, ids in prompts.items()}
        for batch in batches(plan, widths, tokens):
            items = [item for item in batch if item in missing]
            if items:
                yield items

    def prompts(self, limit: int, skip_long: bool) -> dict[str, tuple[int, ...]]:
        """Token ids of every prompt, computed before the first one is answered, so that a prompt
        that does not fit is reported at once."""
        budget = self.protocol.sampling.max_tokens
        found = {
            key: read(self.tokenizer, self.protocol.prompt.view(problem), budget, limit)
            for key, problem in self.problems.items()
        }
        made = {key: ids for key, (ids, _) in found.items()}
        long = [key for key, (_, fits) in found.items() if not fits]
        if long and not skip_long:
            raise UserError(
                f"{self.problems[long[0]].name}: its prompt has {len(made[long[0]])} tokens, which"
                f" with a budget of {budget} exceeds the model's {limit} ({len(long)} of"
                f" {len(made)} problems); lower --budget, or leave them out with --skip-long"
            )
        if len(long) == len(made):
            raise UserError(f"{self.suite}: no prompt leaves room for a budget of {budget} tokens")
        if long:
            log(f"{self.suite}: {len(long)} of {len(made)} problems left out: too long")
        return {key: ids for key, ids in made.items() if key not in set(long)}

    def write_down(self, items: Sequence[Item], completions: Sequence[Completion]) -> Counter[bool]:
        """Grades and stores samples; returns how many of all so far are right and wrong."""
        about = {"model": self.model, "suite": self.suite}
        samples = [
            Sample(about | {"problem": key, "sample": i}, self.problems[key], completion)
            for (key, i), completion in zip(items, completions, strict=True)
        ]
        rows = sample_rows(samples, self.tokenizer, self.protocol)
        self.folder.append(SAMPLES, rows)
        self.right.update(right_of(row) for row in rows)
        return self.right.copy()


def right_of(row: Row) -> bool:
    """Whether a sample is right within the largest budget."""
    return row["budgets"][max(row["budgets"], key=int)]["correct"]


def so_far(right: Counter[bool]) -> str:
    """The running score from the counts of right and wrong samples, under the suite's own labels.

    >>> so_far(Counter({True: 3, False: 9}))
    'right 0.250 (3 of 12)'
    """
    return f"right {right[True] / right.total():.3f} ({right[True]:,} of {right.total():,})"


def make_engine(
    network: Any, tokenizer: Any, choice: EngineChoice, longest: int
) -> tuple[Engine, int]:
    """The engine that generates, with this network's weights, sequences of at most `longest`
    tokens; and how many tokens are generated before they are written."""
    device, tokens = ("cuda", _GPU_TOKENS) if torch.cuda.is_available() else ("cpu", _CPU_TOKENS)
    own = choice.shares_model
    setup = EngineSetup(
        model=network.to(device) if own else network,
        tokenizer=tokenizer,
        eos_ids=eos_ids(network, tokenizer),
        vocab=vocabulary(tokenizer),
        max_length=longest,
        batch_tokens=tokens,
    )
    engine = at_work(choice, setup)
    engine.sync(network)
    return engine, _TURNS * tokens if own else _VLLM_TOKENS
