"""Rollouts and evaluation compared with Transformers' own `generate`.

    python -m benchmarks.rollouts [--rounds 3 --horizons 64 256 1024 --json out.json]

*Rollouts*: 32 completions by the same small Qwen3 from the same prompts, in groups of 1 and of 8,
by our `HFEngine` and by `generate` as TRL's GRPO trainer calls it (one left-padded batch, where a
prompt is repeated for its group). So many token ids end a completion that the untrained model draws
one about every half horizon. Rows therefore end at different steps, as real ones do. The measure is
tokens per CPU second on one thread, in interleaved rounds. Both sample the full distribution at
temperature 1. A first check: without sampling, both must generate the same tokens.

*Evaluation*: the built-in model on its own problems, 4 samples each, by `opsd.evaluate` and by a
loop over `generate` and the same grader, in batches of the same number of tokens; samples per CPU
second.

vLLM, if it can be imported, generates the rollouts as well. It is measured in wall-clock time,
because it chooses its own threads. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from benchmarks.rows import Row, finish, judged, machine, not_measured, note
from benchmarks.shapes import network, small
from opsd.evaluate.run import evaluate
from opsd.evaluate.samples import Protocol, protocol
from opsd.grade.verifier import MathVerifier
from opsd.lm.layout import pad_left
from opsd.lm.loading import load_model, load_tokenizer
from opsd.miniature.world import problems
from opsd.prompts.contexts import StudentPrompt
from opsd.prompts.prompt import prompt_ids
from opsd.rollout.engine import Completion, Sampling
from opsd.rollout.hf import HFEngine

VOCAB, PAD, ROLLOUTS = 8192, 0, 32
FASTER = 1.0
"""The lowest allowed ratio of our rate to theirs."""
Write = Callable[[Sequence[Sequence[int]], Sampling], list[list[int]]]
"""Prompts, one per completion -> completions."""


@dataclass(frozen=True)
class Case:
    """This many completions per prompt, of at most `horizon` tokens."""

    group: int
    horizon: int
    rollouts: int = ROLLOUTS

    @property
    def prompts(self) -> list[list[int]]:
        """One prompt per completion; their lengths differ."""
        draw = torch.Generator().manual_seed(0)
        alone = self.rollouts // self.group
        lengths = [60 + 150 * i // alone for i in range(alone)]
        made = [torch.randint(1000, VOCAB, (n,), generator=draw).tolist() for n in lengths]
        return [prompt for prompt in made for _ in range(self.group)]

    @property
    def ends(self) -> list[int]:
        """Ids that end a completion. The model draws one about every half horizon."""
        return list(range(1, 1 + VOCAB // (self.horizon // 2)))

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_tokens=self.horizon)


def ours(model: Any, ends: Sequence[int]) -> Write:
    engine = HFEngine(model, eos_ids=ends, pad_id=PAD, vocab=VOCAB)

    def write(prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        made = engine.generate(prompts, sampling, range(len(prompts)))
        return [list(completion.ids) for completion in made]

    return write


def transformers(model: Any, ends: Sequence[int]) -> Write:
    """As TRL's GRPO trainer calls it."""

    @torch.no_grad()
    def write(prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        ids, mask = pad_left(prompts, PAD)
        config = GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            do_sample=sampling.temperature > 0,
            pad_token_id=PAD,
            eos_token_id=list(ends),
            temperature=sampling.temperature or None,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            disable_compile=True,
        )
        made = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        return [until(row, ends) for row in made[:, ids.shape[1] :].tolist()]

    return write


def until(row: list[int], ends: Sequence[int]) -> list[int]:
    """A row up to its end token."""
    last = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
    return row[: last + 1]


def vllm(model: Any, case: Case) -> Write:
    from opsd.rollout.engines import VLLM
    from opsd.rollout.vllm import VLLMEngine

    engine = VLLMEngine(
        model,
        VLLM(),
        eos_ids=case.ends,
        vocab=VOCAB,
        probe=case.prompts[0],
        max_model_len=256 + case.horizon,
    )
    engine.sync(model)

    def write(prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        made: list[Completion] = engine.generate(prompts, sampling, range(len(prompts)))
        return [list(completion.ids) for completion in made]

    return write


def rate(write: Write, case: Case, clock: Callable[[], float]) -> float:
    """Tokens per second."""
    begun = clock()
    made = write(case.prompts, case.sampling)
    return sum(map(len, made)) / (clock() - begun)


def in_turns(
    writers: Mapping[str, Write], case: Case, rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Tokens per second of every implementation, by round."""
    rates: dict[str, list[float]] = {name: [] for name in writers}
    for number in range(rounds):
        torch.manual_seed(number)
        for name, write in writers.items():
            rates[name].append(rate(write, case, clock))
        told = ", ".join(f"{name} {made[-1]:.0f}" for name, made in rates.items())
        note(f"{case}, tokens/s: {told}")
    return rates


def compared(rates: dict[str, list[float]]) -> tuple[float, dict[str, Any]]:
    """The median ratio of our rates to Transformers', pair by pair, and the other figures of a
    row."""
    pairs = [o / t for o, t in zip(rates["own"], rates["theirs"], strict=True)]
    return statistics.median(pairs), {
        "range": [round(min(pairs), 3), round(max(pairs), 3)],
        "own_tokens_per_cpu_s": round(statistics.median(rates["own"]), 1),
        "tokens_per_cpu_s": round(statistics.median(rates["theirs"]), 1),
    }


def rollout_row(case: Case, rounds: int) -> Row:
    """Our tokens per CPU second over Transformers'."""
    model = network(small(VOCAB)).eval()
    writers = {"own": ours(model, case.ends), "theirs": transformers(model, case.ends)}
    greedy = Sampling(temperature=0.0, max_tokens=min(case.horizon, 64))
    one, other = (write(case.prompts, greedy) for write in writers.values())
    rates = in_turns(writers, case, rounds, time.process_time)
    ratio, measured = compared(rates)
    return judged(
        "rollouts",
        ratio,
        FASTER,
        ratio >= FASTER and one == other,
        name="Transformers' generate",
        group=case.group,
        horizon=case.horizon,
        rollouts=case.rollouts,
        **measured,
        greedy_equal=one == other,
    )


def vllm_row(case: Case, rounds: int) -> Row:
    """Our engine's wall-clock time compared with vLLM's. No target, since vLLM is the
    alternative."""
    about = {"name": "vLLM", "group": case.group, "horizon": case.horizon}
    if importlib.util.find_spec("vllm") is None:
        why = "vllm is not installed here; it has an environment of its own"
        return not_measured("rollouts", why, **about)
    model = network(small(VOCAB)).eval()
    writers = {"own": ours(model, case.ends), "vllm": vllm(model, case)}
    rates = in_turns(writers, case, rounds, time.perf_counter)
    pairs = [o / v for o, v in zip(rates["own"], rates["vllm"], strict=True)]
    told = {f"{name}_tokens_per_s": round(statistics.median(r), 1) for name, r in rates.items()}
    return judged("rollouts", statistics.median(pairs), **about, **told)


@dataclass(frozen=True)
class Suite:
    """Problems of the built-in world, this many samples each, within a budget of tokens."""

    problems: int = 64
    samples: int = 4
    budget: int = 64
    batch_tokens: int = 8_192
    """The tokens that `opsd evaluate` has in memory at once on a CPU."""

    @property
    def given(self) -> list[Any]:
        return problems("miniature", "test", "swa", self.problems)

    @property
    def protocol(self) -> Protocol:
        return protocol(StudentPrompt(), Sampling(), (self.budget,))


def evaluated(suite: Suite) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "answers"
        evaluate("miniature", suite.given, "miniature", suite.protocol, suite.samples, place)


def looped(suite: Suite) -> None:
    """The loop that one writes without a toolkit: batches in order, `generate`, decode, grade."""
    model, tokenizer = load_model("miniature"), load_tokenizer("miniature")
    verifier = MathVerifier()
    write = transformers(model, model.generation_config.eos_token_id)
    items = [problem for problem in suite.given for _ in range(suite.samples)]
    prompts = [prompt_ids(tokenizer, suite.protocol.prompt.view(problem)) for problem in items]
    size = suite.batch_tokens // (max(map(len, prompts)) + suite.budget)
    for start in range(0, len(items), size):
        part = slice(start, start + size)
        made = write(prompts[part], suite.protocol.sampling)
        for problem, ids in zip(items[part], made, strict=True):
            verifier(problem, tokenizer.decode(ids, skip_special_tokens=True))


def evaluation_row(suite: Suite, rounds: int) -> Row:
    """Our samples per CPU second over the loop's."""
    seconds: dict[str, list[float]] = {"own": [], "loop": []}
    for number in range(rounds + 1):
        for name, run in (("own", evaluated), ("loop", looped)):
            begun = time.process_time()
            run(suite)
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - begun)
        note(f"evaluation, round {number} of {rounds}")
    ratio = statistics.median(
        loop / own for own, loop in zip(seconds["own"], seconds["loop"], strict=True)
    )
    drawn = suite.problems * suite.samples
    return judged(
        "evaluation",
        ratio,
        FASTER,
        ratio >= FASTER,
        name="a loop over generate and the grader",
        problems=suite.problems,
        samples=suite.samples,
        budget=suite.budget,
        own_samples_per_cpu_s=round(drawn / statistics.median(seconds["own"]), 1),
        samples_per_cpu_s=round(drawn / statistics.median(seconds["loop"]), 1),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--horizons", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--json", type=Path, help="also write rows and machine to this file")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    before = machine()
    cases = [Case(group, horizon) for horizon in args.horizons for group in (1, 8)]
    rows = [rollout_row(case, args.rounds) for case in cases]
    rows += [vllm_row(Case(8, 256), args.rounds), evaluation_row(Suite(), args.rounds)]
    return finish(rows, args.json, before)


if __name__ == "__main__":
    sys.exit(main())
