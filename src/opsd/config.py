"""OPSDConfig: TrainingArguments with this field's defaults, and what rollouts need besides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import TrainingArguments


@dataclass
class OPSDConfig(TrainingArguments):
    """Arguments of `OPSDTrainer`. Lengths are in tokens, budgets in tokens per pass.

    `per_device_train_batch_size` counts rollouts. Defaults are OPSD's third version (Zhao et al.
    2026, arXiv 2601.18734v3, Table 6) wherever it names a value.
    """

    learning_rate: float = field(default=5e-6, metadata={"help": "Initial learning rate."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Learning-rate schedule."})
    max_grad_norm: float = field(default=0.1, metadata={"help": "Gradient-norm clip."})
    max_steps: int = field(default=100, metadata={"help": "Optimizer steps."})
    per_device_train_batch_size: int = field(default=4, metadata={"help": "Rollouts per pass."})
    gradient_accumulation_steps: int = field(default=8, metadata={"help": "Passes per step."})
    gradient_checkpointing: bool = field(default=True, metadata={"help": "Recompute activations."})
    bf16: bool | None = field(default=None, metadata={"help": "bfloat16; default: where CUDA is."})
    logging_steps: float = field(default=1, metadata={"help": "Steps between log lines."})
    save_steps: float = field(default=25, metadata={"help": "Steps between checkpoints."})
    temperature: float = field(default=1.1, metadata={"help": "Sampling temperature."})
    top_p: float = field(default=0.95, metadata={"help": "Nucleus; 1 keeps everything."})
    top_k: int = field(default=20, metadata={"help": "Likeliest tokens kept; 0 keeps all."})
    min_p: float = field(default=0.0, metadata={"help": "Share of the top probability kept."})
    max_completion_length: int = field(default=1024, metadata={"help": "Horizon in tokens."})
    max_length: int = field(
        default=20_000, metadata={"help": "Limit of prompt and completion together, in tokens."}
    )
    prompt_too_long: Literal["error", "skip"] = field(
        default="error", metadata={"help": "'error', or 'skip': leave such rows out and count."}
    )
    max_generated_tokens: int | None = field(
        default=None,
        metadata={"help": "Stops after the step that generates this many. None: never."},
    )
    generation_batch_tokens: int = field(
        default=65_536, metadata={"help": "Tokens in memory at once while generating."}
    )
    rollouts_ahead: bool = field(
        default=False,
        metadata={"help": "A server writes the next step's rollouts meanwhile: one step old."},
    )
    max_tokens_per_pass: int | None = field(
        default=None, metadata={"help": "Splits a micro-batch into several passes. None: one."}
    )
    packing: Literal["auto", "on", "off"] = field(
        default="auto",
        metadata={
            "help": "Sequences without padding in one row: 'auto' (flash and flex attention),"
            " 'on', 'off'."
        },
    )
    loss_chunk_rows: int | None = field(
        default=None, metadata={"help": "Tokens per chunk of the loss. None: by memory budget."}
    )
    loss_kernel: Literal["auto", "eager", "compiled", "triton"] = field(
        default="auto",
        metadata={
            "help": "How the loss's elementwise work runs: 'auto' (Triton on a GPU), 'eager',"
            " 'compiled', 'triton'."
        },
    )
    collapse: Literal["warn", "stop", "ignore"] = field(
        default="warn",
        metadata={"help": "If dev avg@k falls: 'warn', 'stop', 'ignore'."},
    )
    collapse_patience: int = field(
        default=2, metadata={"help": "Dev scores in a row that must show it."}
    )
    model_init_kwargs: dict[str, Any] | None = field(
        default=None,
        metadata={"help": "revision, attn_implementation, quantization ... of the model."},
    )
    eval_samples: int = field(default=4, metadata={"help": "Samples per dev problem (k of avg@k)."})
    trace_steps: int = field(
        default=25, metadata={"help": "Steps between traces (top tokens per position); 0: never."}
    )
    rollout_log_steps: int = field(
        default=1, metadata={"help": "Steps between rollouts written out; 0: never."}
    )

    def __post_init__(self) -> None:
        import torch

        if self.bf16 is None:
            gpu = torch.cuda.is_available() and not self.use_cpu
            self.bf16 = gpu and not self.fp16 and torch.cuda.is_bf16_supported()
        if self.prompt_too_long not in ("error", "skip"):
            raise ValueError(f"prompt_too_long is 'error' or 'skip', not '{self.prompt_too_long}'")
        if self.collapse not in ("warn", "stop", "ignore"):
            raise ValueError(f"collapse is 'warn', 'stop' or 'ignore', not '{self.collapse}'")
        if self.packing not in ("auto", "on", "off"):
            raise ValueError(f"packing is 'auto', 'on' or 'off', not '{self.packing}'")
        if self.loss_kernel not in ("auto", "eager", "compiled", "triton"):
            raise ValueError(
                f"loss_kernel is 'auto', 'eager', 'compiled' or 'triton', not '{self.loss_kernel}'"
            )
        for name, least in (
            *(("per_device_train_batch_size", 1), ("gradient_accumulation_steps", 1)),
            *(("learning_rate", 0), ("max_completion_length", 1)),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is at least {least}, not {getattr(self, name)}")
        if self.max_steps == 0:
            raise ValueError("max_steps is a number of steps, or -1 for whole epochs; not 0")
        if self.temperature <= 0:
            raise ValueError("temperature is above 0: the student learns from its own distribution")
        self.remove_unused_columns = False
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model = "eval_avg@k"
            self.greater_is_better = True
        super().__post_init__()
