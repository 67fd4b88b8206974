"""A real model's shape: how much memory the loss adds to what the backbone needs anyway.

    python -m benchmarks.real_shapes [--dtypes fp32 bf16 --methods opsd copsd --layers 28]

A randomly initialised Qwen3-0.6B (vocabulary 151,936) with LoRA r=64 on every linear layer takes
one real optimizer step of `OPSDTrainer`, with gradient checkpointing: about 200 prompt tokens for
the student, 900 for the frozen teacher, and a given completion of 512. The backbone alone is the
same trainer, model and sequence, with the sum of the student's hidden states as the loss and
without teacher or head. Each is measured in its own process: the peak of bytes allocated above the
weights, which exist before the step, and the resident memory as a cross-check.

Prints one JSON row per method and dtype; exit code 1 if a step takes more than 1.1 times the
backbone's peak. bfloat16 is slow on a CPU without instructions for it: an hour and more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import TrainerCallback

from benchmarks import shapes
from benchmarks.loss import peak_bytes
from benchmarks.rows import in_fresh_process
from benchmarks.words import Given, text, tokenizer
from opsd import OPSDConfig, OPSDTrainer, methods
from opsd.lm.forward import hidden_rows
from opsd.lm.layout import pad_right
from opsd.methods import Method
from opsd.prompts.contexts import MultiView, Solution, StudentPrompt
from opsd.runs.environment import environment
from opsd.runs.files import read_jsonl, write_atomically
from opsd.teacher.scorer import ScoringPlan
from opsd.training.examples import TrainingExample
from opsd.types import Problem, Verdict

TARGET = 1.1
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Shape(shapes.Shape):
    """Qwen3-0.6B's shape, and the lengths of the texts: words of problem and solution, completion
    tokens."""

    hidden: int = 1024
    intermediate: int = 3072
    layers: int = 28
    heads: int = 16
    kv_heads: int = 8
    tied: bool = True
    problem: int = 180
    solution: int = 640
    completion: int = 512


@dataclass(frozen=True)
class Case:
    """What one process measures: the step of a method, or of the backbone (`method` None)."""

    shape: Shape = Shape()
    dtype: str = "fp32"
    method: str | None = None
    chunk_rows: int | None = None
    resident: bool = False


class Accumulating(TrainerCallback):
    """Make the step like any micro-step except the first of a step: gradients exist already, in
    addition to what the pass needs."""

    def on_step_begin(self, *args: Any, model: Any, **kwargs: Any) -> None:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)


class Backbone(OPSDTrainer):
    """The same step without teacher, head and loss: the sum of the student's hidden states."""

    def _pass(self, model: nn.Module, part: list[TrainingExample], plan: ScoringPlan) -> Tensor:
        padded = pad_right([example.input for example in part], 0)
        with self.metrics.timed("student"):
            loss = model(objective=lambda student: hidden_rows(student, padded).sum())
            self.accelerator.backward(loss)
        return loss.detach()


def measure(case: Case) -> dict[str, Any]:
    """The peak of one optimizer step, from the allocator's events and from Linux; bytes of the
    weights; seconds; prompt lengths in tokens."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(case, folder)
        # Writing to this file resets Linux's record of the highest resident size.
        Path("/proc/self/clear_refs").write_text("5")
        before, start = _resident("VmRSS"), time.perf_counter()
        if case.resident:
            trainer.train()
            return {"resident_bytes": _resident("VmHWM") - before}
        row: dict[str, Any] = {
            "peak_bytes": peak_bytes(trainer.train),
            "weights_bytes": sum(p.nbytes for p in trainer.model.parameters()),
            "seconds": round(time.perf_counter() - start, 1),
        }
        for file in (Path(folder) / "rollouts").glob("*"):
            written = next(iter(read_jsonl(file)))
            row["student_prompt"] = len(written["prompt_ids"])
            row["teacher_prompt"] = len(written["views"][0]["prompt_ids"])
    return row


def measured(case: Case) -> dict[str, Any]:
    """Run `measure` in a fresh process, and in another one for resident memory, which the
    allocator's records would increase. In bfloat16 the second one would take too long."""
    cases = [case, replace(case, resident=True)][: 1 + (case.dtype == "fp32")]
    first, *second = [in_fresh_process(measure, case) for case in cases]
    return {**first, **(second[0] if second else {})}


def compare(
    case: Case, backbone: dict[str, Any], step: dict[str, Any], target: float = TARGET
) -> dict[str, Any]:
    """A row of the result: the step of a method compared with that of the backbone or another
    method."""
    ratio = step["peak_bytes"] / backbone["peak_bytes"]
    return {
        "measure": "peak",
        "name": case.method,
        "dtype": case.dtype,
        "ratio": round(ratio, 3),
        "target": target,
        "ok": ratio <= target,
        "step": step,
        "backbone": backbone,
        "shape": asdict(case.shape),
        "chunk_rows": case.chunk_rows,
    }


def _trainer(case: Case, folder: str) -> OPSDTrainer:
    """A trainer with one step: one rollout, one pass, plain gradient descent (no state)."""
    shape = case.shape
    args = OPSDConfig(
        output_dir=folder,
        max_steps=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        max_completion_length=shape.completion,
        loss_chunk_rows=case.chunk_rows,
        bf16=case.dtype == "bf16",
        optim="sgd",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        trace_steps=0,
    )
    make = _barycenter if case.method == "barycenter" else methods.FUNCTIONS[case.method or "opsd"]
    return (OPSDTrainer if case.method else Backbone)(
        model=shapes.network(shape).to(DTYPES[case.dtype]),
        method=make(),
        args=args,
        train_dataset=[_problem(shape)],
        processing_class=tokenizer(shape.vocab),
        verifier=lambda problem, completion: Verdict(0.0, False, False),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=64, lora_alpha=128, target_modules="all-linear"
        ),
        engine=Given(shape.vocab, [shape.completion]),
        callbacks=[Accumulating()],
    )


def _barycenter() -> Method:
    """DemoPSD's teacher on a single rollout, which has no sibling: it is shown the solution
    instead."""
    demopsd = methods.demopsd(group=1)
    context = MultiView((Solution(), StudentPrompt()))
    teacher = replace(demopsd.signal.teacher, context=context)  # type: ignore[union-attr]
    return replace(demopsd, signal=replace(demopsd.signal, teacher=teacher))


def _problem(shape: Shape) -> Problem:
    asked, solution, translation = (
        text(words, shape.vocab, seed)
        for seed, words in enumerate((shape.problem, shape.solution, shape.problem))
    )
    privileged = {"solution": solution, "translation": translation}
    return Problem(asked, answer="1", language="swa", privileged=privileged)


def _resident(mark: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(mark))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--methods", nargs="+", default=["opsd", "copsd"])
    parser.add_argument("--layers", type=int, default=Shape.layers)
    parser.add_argument("--completion", type=int, default=Shape.completion)
    parser.add_argument("--chunk-rows", type=int, help="tokens per chunk of the loss")
    parser.add_argument("--json", type=Path, help="also write rows and machine to this file")
    args = parser.parse_args(arguments)
    shape = replace(Shape(), layers=args.layers, completion=args.completion)
    rows = []
    # Freed memory is returned to the system at once, so resident size follows what is in use.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = os.environ["MALLOC_TRIM_THRESHOLD_"] = "65536"
    for dtype in args.dtypes:
        backbone = measured(Case(shape, dtype))
        for method in args.methods:
            case = Case(shape, dtype, method, args.chunk_rows)
            rows.append(compare(case, backbone, measured(case)))
            print(json.dumps(rows[-1]), flush=True)
            if args.json is not None:
                stored = {"machine": environment(), "rows": rows}
                write_atomically(args.json, json.dumps(stored, indent=1))
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
