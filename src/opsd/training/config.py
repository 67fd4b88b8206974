"""OPSDConfig: TrainingArguments with the defaults of OPSD, and the arguments for rollouts."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from transformers import SchedulerType, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from opsd.rollout.engine import LEAST_TEMPERATURE

Count = Annotated[int, Field(ge=1)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]

SCORES = ("avg@k", "pass@k", "format_rate", "mean_length")
"""The measures that dev problems are scored by."""


def _steps_or_epochs(steps: int) -> int:
    if steps != -1 and steps < 1:
        raise ValueError("it should be a number of steps, or -1 for whole epochs")
    return steps


def _staleness(value: Any) -> Any:
    steps = value.get("max_staleness") if isinstance(value, dict) and len(value) == 1 else 0
    if not isinstance(value, bool) and not (isinstance(steps, int) and steps >= 1):
        raise ValueError("it should be true, false, or {max_staleness: N} with N at least 1")
    return value


class Values(BaseModel):
    """The allowed numbers and choices, if neither their type nor Transformers restricts them."""

    model_config = ConfigDict(allow_inf_nan=False)

    seed: Seed = 0
    data_seed: Seed = 0
    learning_rate: NotNegative = 0
    weight_decay: NotNegative = 0
    adam_beta1: Below1 = 0
    adam_beta2: Below1 = 0
    adam_epsilon: NotNegative = 0
    max_grad_norm: NotNegative = 0
    warmup_steps: NotNegative = 0
    max_steps: Annotated[int, AfterValidator(_steps_or_epochs)] = 1
    num_train_epochs: Positive = 1
    per_device_train_batch_size: Count = 1
    gradient_accumulation_steps: Count = 1
    rollouts_per_step: Count = 1
    logging_steps: Positive = 1
    save_steps: Positive = 1
    eval_steps: Positive = 1
    eval_delay: NotNegative = 0
    save_total_limit: Count = 1
    temperature: Annotated[float, Field(ge=LEAST_TEMPERATURE)] = 1
    top_p: Annotated[float, Field(gt=0, le=1)] = 1
    top_k: Annotated[int, Field(ge=0)] = 0
    min_p: Below1 = 0
    max_completion_length: Count = 1
    max_length: Count = 1
    max_generated_tokens: Count = 1
    generation_batch_tokens: Count = 1
    async_rollouts: Annotated[Any, AfterValidator(_staleness)] = False
    max_tokens_per_pass: Count = 1
    loss_chunk_rows: Count = 1
    eval_samples: Count = 1
    collapse_patience: Count = 1
    trace_steps: Annotated[int, Field(ge=0)] = 0
    rollout_log_steps: Annotated[int, Field(ge=0)] = 0
    prompt_too_long: Literal["error", "skip"] = "error"
    collapse: Literal["warn", "stop", "ignore"] = "warn"
    packing: Literal["auto", "on", "off"] = "auto"
    loss_kernel: Literal["auto", "eager", "compiled", "triton"] = "auto"


_RESUME = "a run is resumed by opsd train --resume, or train(resume_from_checkpoint=True)"
UNSUPPORTED = {
    "neftune_noise_alpha": "noise on the student's embeddings makes student and teacher read the"
    " same prompt differently",
    "auto_find_batch_size": "the rollouts per step are fixed beforehand",
    "torch_compile": "the loss runs inside the model's forward, which is not compiled",
    "use_liger_kernel": "its forward would replace the one that the loss runs in",
    "ignore_data_skip": "a resumed run would see different problems",
    "enable_jit_checkpoint": "a run that receives a stop signal saves a checkpoint by itself",
    "resume_from_checkpoint": _RESUME,
    "include_num_input_tokens_seen": "generated_tokens is logged instead",
}
"""The Trainer's settings that would break what this trainer promises, and why."""

WITHOUT_EFFECT = {
    "label_smoothing_factor": "the loss is the method's",
    "per_device_eval_batch_size eval_accumulation_steps prediction_loss_only batch_eval_metrics"
    " eval_do_concat_batches eval_use_gather_object include_for_metrics label_names": "dev problems"
    " are sampled and graded, see eval_samples",
    "dataloader_drop_last dataloader_num_workers dataloader_persistent_workers"
    " dataloader_prefetch_factor train_sampling_strategy length_column_name": "problems are kept in"
    " memory, in an order that the seed determines",
    "average_tokens_across_devices": "tokens are always counted over all processes",
    "torch_empty_cache_steps": "opsd runs a step's passes itself",
    "do_train do_predict": "the command decides what is done",
}
"""The Trainer's settings that have no effect here, and why."""


DEFAULT_PASSES = 8
"""The micro-batches per step if neither they nor the rollouts per step are given."""


@dataclass
class OPSDConfig(TrainingArguments):
    """Arguments of `OPSDTrainer`. Lengths are in tokens, budgets in tokens per pass.

    `per_device_train_batch_size` counts rollouts. `rollouts_per_step` does not depend on the number
    of processes: `gradient_accumulation_steps` follows from it. Defaults are those of OPSD's third
    version (Zhao et al. 2026, arXiv 2601.18734v3, Table 6) if it names a value.
    """

    learning_rate: float = field(default=5e-6, metadata={"help": "Initial learning rate."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Learning-rate schedule."})
    max_grad_norm: float = field(default=0.1, metadata={"help": "Gradient-norm clip."})
    max_steps: int = field(default=100, metadata={"help": "Optimizer steps."})
    per_device_train_batch_size: int = field(default=4, metadata={"help": "Rollouts per pass."})
    gradient_accumulation_steps: int | None = field(
        default=None, metadata={"help": "Passes per step; default: 8, or by rollouts_per_step."}
    )
    rollouts_per_step: int | None = field(
        default=None,
        metadata={"help": "Rollouts per optimizer step, over all processes. None: by passes."},
    )
    gradient_checkpointing: bool = field(default=True, metadata={"help": "Recompute activations."})
    bf16: bool | None = field(default=None, metadata={"help": "Use bfloat16; default: on a GPU."})
    logging_steps: float = field(default=1, metadata={"help": "Steps between log lines."})
    save_steps: float = field(default=25, metadata={"help": "Steps between checkpoints."})
    temperature: float = field(default=1.1, metadata={"help": "Sampling temperature."})
    top_p: float = field(default=0.95, metadata={"help": "Nucleus; 1 keeps everything."})
    top_k: int = field(default=20, metadata={"help": "Likeliest tokens kept; 0 keeps all."})
    min_p: float = field(default=0.0, metadata={"help": "Share of the top probability kept."})
    max_completion_length: int = field(default=1024, metadata={"help": "Tokens per completion."})
    max_length: int = field(
        default=20_000, metadata={"help": "Limit of prompt and completion together, in tokens."}
    )
    prompt_too_long: Literal["error", "skip"] = field(
        default="error", metadata={"help": "'error', or 'skip': leave such rows out and count."}
    )
    max_generated_tokens: int | None = field(
        default=None,
        metadata={"help": "Stop after the step that reaches this many. None: never."},
    )
    generation_batch_tokens: int = field(
        default=65_536, metadata={"help": "Tokens in memory at once while generating."}
    )
    async_rollouts: bool | dict[str, int] = field(
        default=False,
        metadata={
            "help": "Let a server generate the next step's rollouts during a step (one step old);"
            " {max_staleness: N}: those of the next N steps (N steps old)."
        },
    )
    max_tokens_per_pass: int | None = field(
        default=None, metadata={"help": "Split a micro-batch into several passes. None: one."}
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
        default=2, metadata={"help": "Dev scores in a row that must show the fall."}
    )
    model_init_kwargs: dict[str, Any] | None = field(
        default=None,
        metadata={"help": "revision, attn_implementation, quantization ... of the model."},
    )
    eval_samples: int = field(default=4, metadata={"help": "Samples per dev problem (k of avg@k)."})
    trace_steps: int = field(
        default=25,
        metadata={
            "help": "Steps between traces (top tokens per position); also the last; 0: never."
        },
    )
    rollout_log_steps: int = field(
        default=1, metadata={"help": "Steps between rollouts saved to disk; 0: never."}
    )

    def __post_init__(self) -> None:
        """Raises ValueError for a value that is not allowed."""
        if self.bf16 is None:
            self.bf16 = bf16_by_default(self)
        check_values(self)
        if self.rollouts_per_step is not None:
            self._divide(self.rollouts_per_step)
        elif self.gradient_accumulation_steps is None:
            self.gradient_accumulation_steps = DEFAULT_PASSES
        self.remove_unused_columns = False
        # A step whose loss is NaN or infinite is skipped, and is logged as such.
        self.logging_nan_inf_filter = False
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model = "eval_avg@k"
            self.greater_is_better = True
        super().__post_init__()

    @property
    def max_staleness(self) -> int:
        """How many optimizer steps old the weights that generated a rollout may be when it is
        used."""
        ahead = self.async_rollouts
        return ahead["max_staleness"] if isinstance(ahead, dict) else int(ahead)

    def _divide(self, rollouts: int) -> None:
        """Sets the number of passes per step on each process. This happens before the Trainer
        settles its own fields, because a DeepSpeed configuration is filled in from them."""
        _ = self.device  # joins the other processes, so that they can be counted
        passes = passes_per_step(rollouts, self.per_device_train_batch_size, self.world_size)
        given = self.gradient_accumulation_steps
        if given not in (None, passes):
            raise ValueError(
                f"gradient_accumulation_steps: it follows from rollouts_per_step, and is {passes}"
                f" on {self.world_size} process(es), not {given}: leave one of the two out"
            )
        self.gradient_accumulation_steps = passes


def bf16_by_default(args: OPSDConfig) -> bool:
    """Whether the run uses bfloat16 by default."""
    import torch

    gpu = torch.cuda.is_available() and not args.use_cpu
    return gpu and not args.fp16 and torch.cuda.is_bf16_supported()


def settled(args: OPSDConfig) -> dict[str, Any]:
    """The arguments whose values differ from the defaults."""
    alone: dict[str, Any] = {
        "bf16": bf16_by_default(args),
        "gradient_accumulation_steps": DEFAULT_PASSES,
        "disable_tqdm": False,
        "report_to": [],
        "debug": [],
        "accelerator_config": AcceleratorConfig(),
        **dict.fromkeys(("remove_unused_columns", "logging_nan_inf_filter"), False),
        "dataloader_pin_memory": not args.use_cpu,
    }
    found = {}
    for one in fields(args):
        usual = one.default_factory() if one.default_factory is not MISSING else one.default
        value = getattr(args, one.name)
        if value != alone.get(one.name, usual):
            found[one.name] = value
    if args.rollouts_per_step is not None:
        found.pop("gradient_accumulation_steps", None)  # it follows from rollouts_per_step
    return found


def passes_per_step(rollouts: int, batch: int, processes: int) -> int:
    """The number of micro-batches of `batch` rollouts that each process runs per step. Raises
    ValueError if the rollouts do not divide evenly."""
    together = processes * batch
    if rollouts % together == 0:
        return rollouts // together
    near = max(1, (rollouts + together // 2) // together) * together
    # None larger than the requested one, which may not fit into memory.
    smaller = range(min(batch, rollouts // processes), 0, -1)
    fits = next((n for n in smaller if rollouts % (processes * n) == 0), None)
    raise ValueError(
        f"rollouts_per_step: {rollouts} rollouts do not divide among {processes} process(es) in"
        f" micro-batches of {batch}: set it to {near}"
        + (f", or per_device_train_batch_size to {fits}" if fits else "")
    )


def check_values(args: OPSDConfig) -> None:
    """Raises ValueError for values that are not allowed, and for settings of the Trainer that would
    break what this trainer promises."""
    values = {name: getattr(args, name) for name in Values.model_fields}
    try:
        Values.model_validate({name: x for name, x in values.items() if x is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        told = first["msg"].replace("Input should", "it should").removeprefix("Value error, ")
        raise ValueError(f"{name}: {told}, not {values[name]!r}") from None
    for name, why in UNSUPPORTED.items():
        if getattr(args, name) not in (None, False, "no"):
            raise ValueError(f"{name}: {why}; leave it out")
    metric = args.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_").split("/")[0] not in SCORES:
        raise ValueError(f"metric_for_best_model: '{metric}' is not one of {', '.join(SCORES)}")
    if isinstance(args.deepspeed, str) and not Path(args.deepspeed).is_file():
        raise ValueError(f"deepspeed: there is no file '{args.deepspeed}'")


def without_effect(args: OPSDConfig) -> list[str]:
    """Settings that were given but have no effect, one line each with the remedy."""
    defaults = {f.name: f.default for f in fields(OPSDConfig) if f.default is not MISSING}
    lines = [
        f"train.{name} changes nothing here ({why}): leave it out"
        for names, why in WITHOUT_EFFECT.items()
        for name in names.split()
        if getattr(args, name) not in (defaults.get(name), None, [])
    ]
    if args.lr_scheduler_type == SchedulerType.CONSTANT:
        lines += [
            f"train.{name} changes nothing under the schedule 'constant': set"
            " train.lr_scheduler_type to constant_with_warmup, or to another one that reads it"
            for name in ("warmup_steps", "lr_scheduler_kwargs")
            if getattr(args, name)
        ]
    if args.save_only_model and args.save_strategy != "no":
        lines.append("train.save_only_model: no run can be resumed from such checkpoints")
    return lines
