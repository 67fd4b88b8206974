"""What happens beside the steps of a training run: progress, teachers that move, an end in time."""

from __future__ import annotations

import sys
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback

from opsd.progress_bar import bar


class TrainingProgress(TrainerCallback):
    """A bar over the optimizer steps, and a line per log where standard error is no terminal."""

    def __init__(self) -> None:
        self.progress = bar()
        self.task: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.progress.start()
            self.task = self.progress.add_task(
                "training", total=state.max_steps, completed=state.global_step, unit="step", note=""
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        note = _note(logs)
        if self.task is not None:
            self.progress.update(self.task, completed=state.global_step, note=note)
        if self.progress.disable and note:
            line = f"step {state.global_step}/{state.max_steps}  {note}"
            print(line, file=sys.stderr, flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.stop()


class AfterStep(TrainerCallback):
    """Moves the teachers' weights after every optimizer step; stops when the tokens are spent."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for keeper in self.trainer.keepers.values():
            keeper.update(self.trainer.model, state.global_step, state.max_steps)
        budget, spent = args.max_generated_tokens, self.trainer.sampler.generated_tokens
        if budget is not None and sum(gather_object([spent])) >= budget:
            control.should_training_stop = True
        # What is measured but not logged yet is in no checkpoint.
        control.should_log |= control.should_save

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_log |= control.should_save


def _note(logs: dict[str, Any]) -> str:
    """The few numbers that say whether a run is well."""
    shown = (
        ("loss", "loss", ".4f"),
        ("divergence", "divergence", ".4f"),
        ("accuracy", "correct", ".2f"),
        ("completions/mean_length", "length", ".0f"),
        ("generated_tokens", "tokens", ",d"),
        ("eval_avg@k", "dev avg@k", ".3f"),
        ("eval_format_rate", "dev format", ".2f"),
    )
    return "  ".join(f"{label} {logs[key]:{form}}" for key, label, form in shown if key in logs)
