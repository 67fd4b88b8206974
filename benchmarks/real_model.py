"""Generation and training with a pretrained model on this machine's CPU.

    python -m benchmarks.real_model --model FOLDER [--rounds 3 --horizon 64 --json out.json]

The model in a folder, with a LoRA adapter (r=32, all linear layers, not at its initial values), on
one thread; all times are CPU seconds. Prompts are English problems of the built-in world, alone and
after two worked examples as earlier turns.

*Generation*: 16 completions of as many prompts by our engine and by Transformers' `generate` as
TRL's GRPO trainer calls it, top-p 0.95 and top-k 20 at temperature 1.1, up to the length limit, in
alternating rounds.

*A step* of OPSD on 16 rollouts: seconds by phase, compared with the time of its matrix products
alone at the rate that this CPU reaches on large ones. There is no peer and no target: the ratio is
the fraction of the step spent in products.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from benchmarks.rollouts import compared, in_turns, transformers
from benchmarks.rows import Row, finish, judged, machine, note
from opsd import OPSDConfig, OPSDTrainer, methods
from opsd.miniature.world import problems
from opsd.prompts.contexts import StudentPrompt
from opsd.prompts.prompt import prompt_ids
from opsd.rollout.engine import Sampling
from opsd.rollout.hf import HFEngine
from opsd.runs.files import read_jsonl
from opsd.types import Problem

ROLLOUTS, EXAMPLES, RANK = 16, 2, 32
FASTER = 1.0
"""The lowest allowed ratio of our rate to theirs."""


def lora() -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"
    )


def adapted(folder: str) -> Any:
    """The model with an adapter that is not at its initial values."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), lora())
    draw = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(2e-3 * torch.randn(parameter.shape, generator=draw))
    return model.eval()


def given(few_shot: bool) -> list[Problem]:
    """Problems, alone or after two others with their solutions."""
    made = problems("miniature", "train", "eng", EXAMPLES + ROLLOUTS)
    if not few_shot:
        return made[EXAMPLES:]
    turns = [
        {"role": role, "content": text}
        for one in made[:EXAMPLES]
        for role, text in (("user", one.text), ("assistant", one.privileged["solution"]))
    ]
    return [
        replace(one, prompt=(*turns, {"role": "user", "content": one.text}))
        for one in made[EXAMPLES:]
    ]


class Shape:
    """What `in_turns` needs from a case."""

    def __init__(self, folder: str, few_shot: bool, horizon: int) -> None:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        views = (StudentPrompt().view(problem) for problem in given(few_shot))
        self.prompts = [list(prompt_ids(tokenizer, view)) for view in views]
        self.sampling = Sampling(temperature=1.1, top_p=0.95, top_k=20, max_tokens=horizon)
        self.name = "two worked examples" if few_shot else "the problem alone"

    def __str__(self) -> str:
        return f"{self.name}, {sum(map(len, self.prompts))} tokens of prompts"


def writing_row(folder: str, few_shot: bool, horizon: int, rounds: int) -> Row:
    """Our tokens per CPU second over those of `generate`."""
    model, shape = adapted(folder), Shape(folder, few_shot, horizon)
    never = model.config.vocab_size + 1  # no id: all completions run to the horizon
    engine = HFEngine(model, eos_ids=[never], pad_id=0, vocab=model.config.vocab_size)

    def own(prompts: Any, sampling: Sampling) -> list[list[int]]:
        return [list(c.ids) for c in engine.generate(prompts, sampling, range(len(prompts)))]

    writers = {"own": own, "theirs": transformers(model, [never])}
    rates = in_turns(writers, shape, rounds, time.process_time)  # type: ignore[arg-type]
    ratio, measured = compared(rates)
    return judged(
        "writing",
        ratio,
        FASTER,
        ratio >= FASTER,
        name="Transformers' generate",
        parameters=model.get_base_model().num_parameters(),
        prompts=shape.name,
        prompt_tokens=sum(map(len, shape.prompts)),
        horizon=horizon,
        rounds=rounds,
        **measured,
    )


class Counted(TrainerCallback):
    """Add up the products of the second step; the first one warms up."""

    def __init__(self) -> None:
        self.counter, self.seconds = FlopCounterMode(display=False), 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            self.seconds = -time.process_time()
        if state.global_step == 2:
            self.seconds += time.process_time()
            self.counter.__enter__()
        if state.global_step == 3:
            self.counter.__exit__(None, None, None)


def product_rate(rows: int = 1024, inner: int = 576, outer: int = 1536) -> float:
    """Operations per second of a large matrix product."""
    left, right = torch.randn(rows, inner), torch.randn(inner, outer)
    took = []
    for _ in range(15):
        begun = time.process_time()
        left @ right
        took.append(time.process_time() - begun)
    return 2 * rows * inner * outer / statistics.median(took)


def step_row(folder: str, few_shot: bool, horizon: int, checkpointing: bool) -> Row:
    """The seconds of a step, and the fraction that its products take."""
    counted = Counted()
    with tempfile.TemporaryDirectory() as run:
        args = OPSDConfig(
            output_dir=f"{run}/run",
            max_steps=3,
            per_device_train_batch_size=ROLLOUTS,
            gradient_accumulation_steps=1,
            gradient_checkpointing=checkpointing,
            max_completion_length=horizon,
            temperature=1.1,
            top_p=0.95,
            top_k=20,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            trace_steps=0,
            use_cpu=True,
            bf16=False,
        )
        told = {"train_dataset": given(few_shot), "peft_config": lora(), "callbacks": [counted]}
        OPSDTrainer(folder, methods.opsd(), args, **told).train()
        rows = [row for row in read_jsonl(Path(run, "run", "metrics.jsonl")) if "loss" in row]
    phases = {k.removeprefix("time/"): v for k, v in rows[1].items() if k.startswith("time/")}
    floor = counted.counter.get_total_flops() / product_rate()
    return judged(
        "step",
        floor / counted.seconds,
        prompts="two worked examples" if few_shot else "the problem alone",
        horizon=horizon,
        gradient_checkpointing=checkpointing,
        cpu_s=round(counted.seconds, 3),
        products_cpu_s=round(floor, 5),
        wall_by_phase={name: round(seconds, 1) for name, seconds in phases.items()},
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--model", required=True, help="a folder with a causal language model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--horizon", type=int, default=64)
    parser.add_argument("--json", type=Path, help="also write rows and machine to this file")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    before, rows = machine(), []
    for few_shot in (False, True):
        rows.append(writing_row(args.model, few_shot, args.horizon, args.rounds))
        for checkpointing in (True, False):
            rows.append(step_row(args.model, few_shot, args.horizon, checkpointing))
            note(str(rows[-1]))
    return finish(rows, args.json, before)


if __name__ == "__main__":
    sys.exit(main())
