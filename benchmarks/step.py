"""A whole optimizer step compared with TRL's, on the same prompts and completions.

    python -m benchmarks.step [--vocab 32000 151936 --rounds 5 --json out.json]

Both sides use the same small Qwen3 with the same LoRA, the same eight prompts, teacher prompts and
given completions of uneven length (nothing is sampled), and the same loss. A step includes
tokenisation, teacher, student, loss, backward pass and optimizer. Ours is compared with TRL's
`SDFTTrainer` (the full distribution, and its top 100) and, with rewards instead of a teacher, with
TRL's `GRPOTrainer`; all use gradient checkpointing. Time is this process's CPU time on one thread,
with alternating steps; memory is the peak of bytes allocated above the model. Prints one JSON row
per measurement, theirs divided by ours; exit code 1 if a target is missed. The losses check that
both compute the same (of the full distribution; TRL's GRPO assumes that the model itself sampled
the completions).
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback

from benchmarks.loss import peak_bytes
from benchmarks.rows import Row, finish, in_fresh_process, judged, machine, note
from benchmarks.shapes import Shape, network, small
from benchmarks.words import Given, text, tokenizer
from opsd import OPSDConfig, OPSDTrainer, methods
from opsd.methods import Method
from opsd.methods.signals import Distill, Teacher
from opsd.objective.divergences import jsd
from opsd.objective.total import Reduction
from opsd.prompts.contexts import Solution, StudentPrompt
from opsd.types import Group, Problem, Verdict

ROLLOUTS, GROUP = 8, 4
LENGTHS = (64, 96, 128, 160, 192, 256, 320, 512)
LARGE = 100_000
"""Larger vocabularies get a quarter of these tokens: TRL's step needs more than 24 GB for them."""
TARGETS = {
    ("SDFT, full logits", "time"): {32_000: 2.0},
    ("SDFT, full logits", "peak"): {32_000: 4.0, 151_936: 10.0},
}
"""The lowest allowed ratio of a peer to ours, by vocabulary."""


def lora(rank: int = 16) -> LoraConfig:
    """On every linear layer."""
    return LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules="all-linear"
    )


@dataclass(frozen=True)
class World:
    """A model's shape; problems with the two prompts that both sides read, each about this many
    tokens long; and the completions of each. Whole rounds of them are one batch and one pass."""

    shape: Shape
    lengths: Sequence[int]
    group: int = 1
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    rank: int = 16
    asked: int = 60
    told: int = 150

    @property
    def vocab(self) -> int:
        return self.shape.vocab

    @property
    def problems(self) -> list[Problem]:
        return [
            Problem(
                text(self.asked + 5 * i, self.vocab, i),
                answer="1",
                privileged={"solution": text(self.told, self.vocab, 100 + i)},
            )
            for i in range(len(self.lengths) // self.group)
        ]

    @property
    def given(self) -> Given:
        return Given(self.vocab, self.lengths)

    @property
    def model(self) -> Any:
        return network(self.shape, self.device, self.dtype)


def on_cpu(vocab: int, group: int) -> World:
    """A model that trains in seconds on a CPU."""
    lengths = [length // 4 if vocab > LARGE else length for length in LENGTHS]
    return World(small(vocab), lengths, group)


def common(world: World, folder: str, steps: int) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": len(world.lengths),
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": True,
        "max_completion_length": max(world.lengths),
        "learning_rate": 1e-6,
        "max_grad_norm": 1.0,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": world.device == "cpu",
        "bf16": world.dtype == torch.bfloat16,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "seed": 0,
    }


STUDENT, TEACHER = StudentPrompt(), Solution()
DISTIL = Method(
    name="distil",
    student=STUDENT,
    signal=Distill(Teacher(TEACHER), jsd(0.5), reduction=Reduction(unit="sequence")),
)


def reward(problem: Problem, completion: str) -> Verdict:
    right = len(completion) % 2 == 0
    return Verdict(float(right), right, True)


def ours(world: World, folder: str, steps: int) -> Any:
    return own_trainer(world, own_config(world, folder, steps))


def own_config(world: World, folder: str, steps: int) -> OPSDConfig:
    return OPSDConfig(**common(world, folder, steps), trace_steps=0, rollout_log_steps=0)


def own_trainer(world: World, args: OPSDConfig) -> OPSDTrainer:
    method = DISTIL if world.group == 1 else methods.grpo(group=world.group)
    return OPSDTrainer(
        world.model,
        method,
        args,
        world.problems,
        processing_class=tokenizer(world.vocab),
        verifier=reward,
        peft_config=lora(world.rank),
        engine=world.given,
    )


def rows(world: World) -> Dataset:
    """The rows for TRL: the same texts that our two views show."""
    made = []
    for problem in world.problems:
        (teacher,) = TEACHER(Group(problem, ()), 0) or ()
        made.append(
            {
                "prompt": list(STUDENT.view(problem).messages),
                "privileged_context": teacher.messages[-1]["content"],
            }
        )
    return Dataset.from_list(made)


def sdft(mode: str) -> Callable[[World, str, int], Any]:
    def make(world: World, folder: str, steps: int) -> Any:
        from trl.experimental.sdft import SDFTConfig, SDFTTrainer

        class Replayed(SDFTTrainer):
            """TRL's trainer, given the completions instead of sampling them."""

            def _generate(self, prompt_ids: list[list[int]]) -> Any:
                return prompt_ids, world.given.ids(prompt_ids)

        args = SDFTConfig(
            **common(world, folder, steps),
            distillation_mode=mode,
            distillation_alpha=0.5,
            distillation_is_clip=None,
            num_generations=1,
            max_prompt_length=4096,
            shuffle_dataset=False,
            chat_template_kwargs=STUDENT.template_options,
        )
        trainer = Replayed(
            world.model,
            args,
            rows(world),
            processing_class=tokenizer(world.vocab),
            peft_config=lora(world.rank),
        )
        builder: Any = trainer.teacher_context_builder
        builder._compose_teacher_prompt = lambda prompt, told: [{"role": "user", "content": told}]
        return trainer

    return make


def grpo(world: World, folder: str, steps: int) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    class Replayed(GRPOTrainer):
        """TRL's trainer, given the completions instead of sampling them."""

        def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
            return world.given.ids(prompt_ids), None

    args = GRPOConfig(
        **common(world, folder, steps),
        num_generations=world.group,
        beta=0.0,
        loss_type="grpo",
        shuffle_dataset=False,
    )

    def score(completions: list[Any], **kwargs: Any) -> list[float]:
        return [float(len(c[0]["content"]) % 2 == 0) for c in completions]

    return Replayed(
        world.model,
        score,
        args,
        rows(world).remove_columns("privileged_context"),
        processing_class=tokenizer(world.vocab),
        peft_config=lora(world.rank),
    )


DISTILLERS = {
    "ours": ours,
    "SDFT, full logits": sdft("full_logits"),
    "SDFT, top 100": sdft("topk_logits"),
}
REWARDED = {"ours": ours, "GRPO": grpo}


class Clock(TrainerCallback):
    """Seconds of the first step and of every later one, measured from the end of the previous step,
    in CPU time or until a GPU has finished."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.ends: list[float] = []

    @property
    def first(self) -> float:
        """Including compilation and set-up."""
        return self.ends[1] - self.ends[0]

    @property
    def seconds(self) -> list[float]:
        return [after - before for before, after in pairwise(self.ends[1:])]

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._note()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._note()

    def _note(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()
        self.ends.append(time.process_time() if self.device == "cpu" else time.perf_counter())


def timed(name: str, world: World) -> tuple[float, float]:
    """CPU seconds per step, and the loss of the first one."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = arms(world)[name](world, folder, 3)
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
        loss = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
    return statistics.median(clock.seconds), loss


def peak(job: tuple[str, World]) -> int:
    """The most bytes that one step allocates above what was allocated before it."""
    torch.set_num_threads(1)
    name, world = job
    with tempfile.TemporaryDirectory() as folder:
        trainer = arms(world)[name](world, folder, 1)
        return peak_bytes(trainer.train)


def arms(world: World) -> dict[str, Callable[[World, str, int], Any]]:
    return DISTILLERS if world.group == 1 else REWARDED


def measure(world: World, rounds: int) -> list[Row]:
    """The time and peak of every peer, divided by ours."""
    peaks = {name: in_fresh_process(peak, (name, world)) for name in arms(world)}
    times: dict[str, list[float]] = {name: [] for name in arms(world)}
    losses: dict[str, float] = {}
    for number in range(rounds):
        for name in times:
            seconds, losses[name] = timed(name, world)
            times[name].append(seconds)
        told = ", ".join(f"{name} {values[-1]:.2f}" for name, values in times.items())
        note(f"V={world.vocab:,}, round {number + 1} of {rounds}, s: {told}")
    exact = "SDFT, full logits"
    if exact in losses and not math.isclose(losses[exact], losses["ours"], rel_tol=1e-3):
        raise RuntimeError(f"the losses differ: {losses}")
    table: list[Row] = []
    for name in list(times)[1:]:
        paired = [t / o for t, o in zip(times[name], times["ours"], strict=True)]
        for what, ratio in (
            ("time", statistics.median(paired)),
            ("peak", peaks[name] / peaks["ours"]),
        ):
            target = TARGETS.get((name, what), {}).get(world.vocab)
            row = judged(
                what,
                ratio,
                target,
                target is None or ratio >= target,
                name=name,
                vocab=world.vocab,
                tokens=sum(world.lengths),
                range=[round(min(paired), 3), round(max(paired), 3)],
                cpu_s=round(statistics.median(times[name]), 3),
                own_cpu_s=round(statistics.median(times["ours"]), 3),
                peak_bytes=peaks[name],
                own_peak_bytes=peaks["ours"],
                loss=losses[name],
                own_loss=losses["ours"],
            )
            table.append(row)
    return table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--vocab", type=int, nargs="+", default=[32_000, 151_936])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write rows and machine to this file")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    before = machine()
    worlds = [on_cpu(vocab, group) for vocab in args.vocab for group in (1, GROUP)]
    return finish(
        [row for world in worlds for row in measure(world, args.rounds)], args.json, before
    )


if __name__ == "__main__":
    sys.exit(main())
