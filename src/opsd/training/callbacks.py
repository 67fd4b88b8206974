"""Callbacks of a training run: progress, skipped steps, teacher updates, and stopping in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import DistributedType, gather_object
from torch import Tensor
from transformers import TrainerCallback

from opsd.console import SELDOM, bar, log, remaining
from opsd.rollout.engine import Progress, silent
from opsd.runs import checkpoint
from opsd.teacher.copies import TeacherWeights
from opsd.teacher.weights import Weights
from opsd.training.stopping import Stopped, StopSignal
from opsd.types import RunFailed


class TrainingProgress(TrainerCallback):
    """A progress bar over the optimizer steps. It also advances within a step and names the current
    phase: writing, grading, teacher, student, dev, saving. If standard error is not a terminal, it
    prints a line every `SELDOM` seconds instead, and one for dev scores and for skipped steps."""

    PHASES: ClassVar = {"rollout": "writing", "eval": "dev"}
    """How an engine call is displayed, if not by the name of its phase."""

    def __init__(self, *, rewarded: bool = False) -> None:
        """`rewarded` says that the run learns from rewards, which are then shown next to the
        accuracy."""
        self.rewarded = rewarded
        self.progress = bar()
        self.task: Any = None
        self.step = self.steps = self.passes = self.passed = self.learned = 0
        self.writing_part = 0.5
        """The fraction of a step's time that its rollouts take, estimated from the previous
        step."""
        self.note = self.pace = ""
        self.done = 0.0
        """The fraction of a step's passes that are done."""
        self._said = self._step_began = self._learning_began = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.step, self.steps = state.global_step, state.max_steps
            self.passes = args.gradient_accumulation_steps
            self.progress.start()
            about = {"total": self.steps, "completed": self.step, "begun": self.step}
            self.task = self.progress.add_task("training", **about, unit="step", note="")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step, self.passed, self.learned = state.global_step, 0, 0
        now = time.monotonic()
        if now > self._step_began:
            wrote = self._learning_began - self._step_began
            self.writing_part = min(max(wrote / (now - self._step_began), 0.0), 1.0)
        self._step_began = now
        if self.task is not None:
            self.progress.update(self.task, completed=self.step, description="training")

    def writing(self, phase: str, rollouts: int, horizon: int) -> Progress:
        """A callback that an engine call reports its progress to; the call generates `rollouts`
        rollouts of at most `horizon` tokens."""
        if self.task is None:
            return silent
        begun, ended, written = time.monotonic(), 0, 0
        name = self.PHASES.get(phase, phase)

        def told(done: int, tokens: int = 0) -> None:
            nonlocal ended, written
            ended, written = ended + done, written + tokens
            rate = written / max(time.monotonic() - begun, 1e-3)
            part = max(ended / rollouts, written / (rollouts * horizon))
            within = self.writing_part * part if phase == "rollout" else None
            self._tell(f"{name} {ended}/{rollouts}, {rate:,.0f} tokens/s", within)

        return told

    def learning(self, number: int, parts: int, tokens: int) -> None:
        """Report that a pass over `tokens` tokens begins, after `number` of the `parts` passes of a
        micro-batch."""
        if not self.learned:
            self._learning_began = time.monotonic()
        rate = self.learned / max(time.monotonic() - self._learning_began, 1e-3)
        self.done = (self.passed + number / parts) / self.passes if self.passes else 0.0
        self.pace = f"{self.done:.0%}" + (f", {rate:,.0f} tokens/s" if self.learned else "")
        self.learned += tokens
        self.passed += number == parts - 1

    def reading(self, who: str) -> None:
        """Report that the teacher or the student starts its forward pass."""
        if self.task is not None:
            within = self.writing_part + (1 - self.writing_part) * self.done
            self._tell(f"{who} {self.pace}", within)

    def phase(self, name: str) -> None:
        """Report another phase: grading or saving."""
        if self.task is not None:
            self._tell(name)

    def _tell(self, what: str, within: float | None = None) -> None:
        """Show the current phase and, if known, the progress `within` the step."""
        completed = None if within is None else self.step + within
        self.progress.update(self.task, completed=completed, description=what)
        if self.progress.disable and time.monotonic() - self._said > SELDOM:
            self._line(what)

    def _line(self, what: str) -> None:
        self._said = time.monotonic()
        left = remaining(next(task for task in self.progress.tasks if task.id == self.task))
        told = f", {timedelta(seconds=round(left))} left" if left else ""
        log("  ".join(filter(None, (f"step {self.step}/{self.steps}{told}", what, self.note))))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        note = _note(logs or {}, rewarded=self.rewarded)
        if self.task is None or not note:
            return
        scored = "eval_avg@k" in logs or "nonfinite_steps" in logs
        self.step, self.note = state.global_step, note
        self.progress.update(self.task, completed=self.step, note=self.note)
        seldom = time.monotonic() - self._said > SELDOM
        if self.progress.disable and (scored or seldom or self.step in (1, self.steps)):
            self._line("")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.stop()


class FiniteSteps(TrainerCallback):
    """Skips steps whose loss or gradient is NaN or infinite: weights and teachers stay unchanged,
    and no checkpoint is saved that could replace a better one. After `LIMIT` such steps in a row
    the run ends."""

    LIMIT = 3

    def __init__(self, accelerator: Any, run: Path) -> None:
        self.accelerator, self.run = accelerator, run
        self.clear()

    def clear(self) -> None:
        """Reset the counts."""
        self.norm: Any = 0.0
        self.in_a_row = self.left_out = self.without_loss = 0
        self._bad_loss = False

    def counted(self, loss: Tensor) -> Tensor:
        """The loss as the Trainer may accumulate it: 0 if it is NaN or infinite."""
        bad = not bool(torch.isfinite(loss))
        self._bad_loss |= bad
        return torch.zeros_like(loss) if bad else loss

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any
    ) -> None:
        scaled = self.accelerator.scaler is not None
        # A gradient scaler calibrates itself by overflowing gradients, and skips such steps itself.
        bad_norm = not scaled and not math.isfinite(float(self.norm or 0.0))
        found = [(self._bad_loss, bad_norm)]
        found = gather_object(found) if args.world_size > 1 else found
        bad_loss, self._bad_loss = any(loss for loss, _ in found), False
        self.without_loss += bad_loss
        if not bad_loss and not any(norm for _, norm in found):
            self.in_a_row = 0
            return
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:  # already stepped
            raise RunFailed(f"step {state.global_step + 1}: {self._told()}")
        if not scaled:
            optimizer.zero_grad()
        self.in_a_row += 1
        self.left_out += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.in_a_row:
            control.should_save = control.should_evaluate = False
            control.should_log = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.refuse(state)

    def tell(self, logs: dict[str, Any]) -> None:
        """Adds to a log line the number of skipped steps. If one of them had no finite loss, the
        line's loss is NaN."""
        if self.without_loss:
            logs["loss"] = math.nan
        if self.left_out:
            logs["nonfinite_steps"] = self.left_out
        self.left_out = self.without_loss = 0

    def refuse(self, state: Any) -> None:
        """Raises RunFailed if too many steps in a row were skipped."""
        if self.in_a_row >= self.LIMIT:
            raise RunFailed(
                f"{self.in_a_row} steps in a row to step {state.global_step}: {self._told()}"
            )

    def _told(self) -> str:
        newest = max(checkpoint.complete(self.run), default=None)
        kept = f"the last checkpoint is checkpoint-{newest}" if newest else "no checkpoint is saved"
        return (
            "the loss or its gradient is NaN or infinite; lower learning_rate or"
            f" max_grad_norm. {kept}"
        )


class TeacherUpdates(TrainerCallback):
    """Updates the teachers' weights after every optimizer step, except skipped ones, which did not
    change the student. `reuse` is the method's."""

    def __init__(
        self, weights: Mapping[Weights, TeacherWeights], reuse: int, finite: FiniteSteps
    ) -> None:
        self.weights, self.reuse, self.finite = weights, reuse, finite

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        if self.finite.in_a_row:
            return
        for choice, own in self.weights.items():
            if choice.moves(state.global_step, self.reuse):
                own.update(model, state.global_step, state.max_steps)


class TimelyEnd(TrainerCallback):
    """Stops the run when the token budget is spent, or when a signal asks it to. `spent` returns
    the tokens that this process has generated; `catch_up` finishes what an interrupted run left
    undone."""

    def __init__(
        self, stop: StopSignal, spent: Callable[[], int], catch_up: Callable[[], None]
    ) -> None:
        self.stop, self.spent, self.catch_up = stop, spent, catch_up

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A step may only be abandoned midway if all earlier steps are already logged.
        alone = args.world_size == 1 and not args.async_rollouts
        logged = args.logging_strategy == "steps" and args.logging_steps == 1
        self.stop.leave_at(once=alone and logged)
        self.catch_up()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        told = gather_object([(self.spent(), self.stop.number)])
        budget = args.max_generated_tokens
        if budget is not None and sum(spent for spent, _ in told) >= budget:
            control.should_training_stop = True
        numbers = [number for _, number in told if number is not None]
        if numbers:
            # By now all processes know about the signal: they leave an evaluation together, at its
            # start.
            self.stop.take(numbers[0])
            control.should_save = control.should_training_stop = True
        # A checkpoint does not contain measurements that are not logged yet.
        control.should_log |= control.should_save

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_log |= control.should_save
        # The step is saved and all callbacks are notified; the Trainer would now finish as if
        # training had ended.
        if self.stop.number is not None and control.should_training_stop:
            raise Stopped


def _note(logs: dict[str, Any], *, rewarded: bool) -> str:
    """The few numbers that show whether a run goes well. The mean reward is among them if it
    differs from the accuracy."""
    own = rewarded or logs.get("reward") != logs.get("accuracy")
    shown = (
        ("divergence", "divergence", "z.4f"),
        ("loss", "loss", "z.4f"),
        *([("reward", "reward", "z.3f")] if own else []),
        ("accuracy", "correct", ".2f"),
        ("completions/mean_length", "length", ".0f"),
        ("generated_tokens", "tokens", ",d"),
        ("eval_avg@k", "dev avg@k", ".3f"),
        ("eval_format_rate", "dev format", ".2f"),
        ("nonfinite_steps", "steps left out", "d"),
    )
    return "  ".join(f"{label} {logs[key]:{form}}" for key, label, form in shown if key in logs)
