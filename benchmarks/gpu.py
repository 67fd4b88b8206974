"""Everything that needs a GPU, in one command, for whoever has one.

    python -m benchmarks.gpu --json gpu.json
    python -m benchmarks.gpu --device cpu --shapes tiny --completions 32 --largest 2

Randomly initialised models of Qwen3's shapes in bfloat16 under LoRA r=64 on every linear layer,
teacher's prompt about 3,000 tokens. Per shape and completion length:

    loss      `benchmarks.loss` at the shape's hidden size: ours in every form, peers, the floor
    step      a whole optimizer step of `OPSDTrainer` on given completions, gradient checkpointing:
              seconds of the second and third step, and the peak of bytes allocated
    largest   the most rollouts in one pass that fit, by doubling until memory runs out
    rollouts  tokens per second of `HFEngine`, 32 rollouts

Prints one JSON row per measurement. Without the device it prints rows that say so, and exits 0.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import TrainerCallback

from benchmarks import loss
from benchmarks.rows import Row, finish, judged, machine, not_measured, note
from benchmarks.shapes import SHAPES, Shape, network
from benchmarks.words import Given, text, tokenizer
from opsd import OPSDConfig, OPSDTrainer, methods
from opsd.rollout.engine import Sampling
from opsd.rollout.hf import HFEngine
from opsd.types import Problem, Verdict

TINY = Shape(64, 128, 2, 4, 2, tied=True, head_dim=16, vocab=512)
KNOWN = {"tiny": TINY, **SHAPES}
DEFAULT = ["Qwen3-1.7B", "Qwen3-4B", "Qwen3-8B"]
MEASURES = ("loss", "step", "largest", "rollouts")


class Seconds(TrainerCallback):
    """Between the ends of steps, when the device has finished."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


@dataclass(frozen=True)
class Case:
    """A model's shape, completions of so many tokens, and where they are computed."""

    name: str
    completion: int
    device: str

    @property
    def shape(self) -> Shape:
        return KNOWN[self.name]

    @property
    def about(self) -> dict[str, Any]:
        return {"name": self.name, "completion": self.completion, "device": self.device}

    @property
    def problems(self) -> list[Problem]:
        """About 200 tokens for the student, 3,000 for the teacher; of the tiny shape, few."""
        asked, told = (180, 2800) if self.shape.vocab > 1000 else (10, 20)
        solution = text(told, self.shape.vocab, 99)
        texts = [text(asked, self.shape.vocab, seed) for seed in range(64)]
        return [Problem(x, "1", privileged={"solution": solution}) for x in texts]


def trained(case: Case, batch: int, steps: int) -> list[float]:
    """Seconds of every step but the first, with so many rollouts in its one pass."""
    clock = Seconds()
    engine = Given(case.shape.vocab, [case.completion])
    with tempfile.TemporaryDirectory() as folder:
        args = OPSDConfig(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=1,
            max_completion_length=case.completion,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=case.device == "cpu",
            bf16=True,
            trace_steps=0,
            rollout_log_steps=0,
        )
        OPSDTrainer(
            network(case.shape, case.device).to(torch.bfloat16),
            methods.opsd(),
            args,
            case.problems,
            processing_class=tokenizer(case.shape.vocab),
            verifier=lambda problem, completion: Verdict(0.0, False, False),
            peft_config=LoraConfig(
                task_type="CAUSAL_LM", r=64, lora_alpha=128, target_modules="all-linear"
            ),
            engine=engine,
            callbacks=[clock],
        ).train()
    return [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)]


def loss_rows(case: Case) -> list[Row]:
    """Of 8,192 taught tokens in chunks of 512. Without a GPU of 64 in chunks of 16, which no target
    is meant for."""
    gpu = case.device == "cuda"
    shape = {"rows": 8192 if gpu else 64, "chunk": 512 if gpu else 16, "rounds": 3}
    shape |= {"vocab": case.shape.vocab, "hidden": case.shape.hidden}
    words = [word for key, value in shape.items() for word in (f"--{key}", str(value))]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "loss.json"
        with contextlib.redirect_stdout(io.StringIO()):
            loss.main(["--sweep", "peers", "--device", case.device, "--json", str(file), *words])
        made = json.loads(file.read_text("utf-8"))["rows"]
    untargeted = {} if gpu else {"target": None, "ok": True}
    return [
        {**row, **untargeted, "measure": f"loss: {row['measure']}", "shape": case.name}
        for row in made
    ]


def step_rows(case: Case) -> list[Row]:
    """Two timed steps with one rollout in the pass."""
    seconds: list[float] = []
    peak = loss.peak_bytes(lambda: seconds.extend(trained(case, 1, 3)), case.device)
    took = round(min(seconds), 4)
    return [judged("step", None, **case.about, step_s=took, peak_bytes=peak)]


def largest_rows(case: Case, most: int) -> list[Row]:
    """The most rollouts in a pass, a power of two, that `most` bounds."""
    fits, batch = 0, 1
    while batch <= most:
        try:
            trained(case, batch, 1)
        except torch.OutOfMemoryError:
            break
        finally:
            release()
        fits, batch = batch, 2 * batch
        note(f"{case}: {fits} rollouts fit")
    return [judged("largest", None, **case.about, rollouts=fits, bound=most)]


def rollout_rows(case: Case) -> list[Row]:
    """32 rollouts; an ending is hardly ever drawn."""
    vocab = case.shape.vocab
    model = network(case.shape, case.device).to(torch.bfloat16)
    engine = HFEngine(model, eos_ids=[0], pad_id=0, vocab=vocab)
    prompts = [list(range(10, 210)) for _ in range(32)]
    begun = time.perf_counter()
    made = engine.generate(prompts, Sampling(max_tokens=case.completion), range(32))
    seconds = time.perf_counter() - begun
    tokens = sum(len(completion.ids) for completion in made)
    return [judged("rollouts", None, **case.about, tokens_per_s=round(tokens / seconds, 1))]


def release() -> None:
    """Gives back what the last measurement held, so that the next one has the whole device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measured(case: Case, most: int) -> list[Row]:
    """Every measurement of a case; one that fails says why, and the others go on."""
    parts: dict[str, Callable[[], list[Row]]] = {
        "loss": lambda: loss_rows(case),
        "step": lambda: step_rows(case),
        "largest": lambda: largest_rows(case, most),
        "rollouts": lambda: rollout_rows(case),
    }
    rows = []
    for measure, part in parts.items():
        note(f"{case}: {measure}")
        try:
            rows += part()
        except torch.OutOfMemoryError as error:
            rows.append(not_measured(measure, f"out of memory: {error}"[:200], **case.about))
        release()
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=list(KNOWN), default=DEFAULT)
    parser.add_argument("--completions", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--largest", type=int, default=64, help="bound of the micro-batch")
    parser.add_argument("--json", type=Path, help="also write the rows, and the machine, to this")
    args = parser.parse_args(arguments)
    before = machine()
    cases = [Case(name, n, args.device) for name in args.shapes for n in args.completions]
    if args.device == "cuda" and not torch.cuda.is_available():
        why = "no CUDA device"
        rows = [not_measured(m, why, **case.about) for case in cases for m in MEASURES]
    else:
        rows = [row for case in cases for row in measured(case, args.largest)]
    return finish(rows, args.json, before)


if __name__ == "__main__":
    sys.exit(main())
