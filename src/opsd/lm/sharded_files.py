"""Checkpoints of a model that FSDP2 shards: the same files as anybody's, so that a run goes on with
another number of processes, or without sharding."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer

from opsd.lm.sharding import full_tensors_on_first, local, spread
from opsd.types import UserError


class ShardedFiles(Trainer):
    """Writes whole weights and a whole optimizer state; reads them into shards."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        plugin: Any = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and isinstance(plugin.mixed_precision_policy, MixedPrecisionPolicy):
            # Accelerate would add gradients up, and report the loss, in bfloat16.
            exact = {"reduce_dtype": torch.float32, "output_dtype": None}
            policy = dataclasses.replace(plugin.mixed_precision_policy, **exact)
            plugin.mixed_precision_policy = policy

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state: Any = self.optimizer.state_dict()  # pyright: ignore[reportOptionalMemberAccess]
        state["state"] = {
            number: full_tensors_on_first(values) for number, values in state["state"].items()
        }
        if self.args.should_save:
            torch.save(state, Path(output_dir, "optimizer.pt"))
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, "scheduler.pt"))  # pyright: ignore

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_fsdp_enabled or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer: Any = self.optimizer
        # Mapped, so that the processes of a machine share one copy in memory.
        state = torch.load(Path(checkpoint, "optimizer.pt"), mmap=True, weights_only=True)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, values in state["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape == parameters[number].shape:
                    values[name] = spread(value, parameters[number])
        optimizer.load_state_dict(state)
        scheduler = torch.load(Path(checkpoint, "scheduler.pt"), weights_only=True)
        self.lr_scheduler.load_state_dict(scheduler)  # pyright: ignore[reportOptionalMemberAccess]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            load_weights(self.model, Path(resume_from_checkpoint))  # pyright: ignore
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled:
            load_weights(self.model, Path(str(self.state.best_model_checkpoint)))  # pyright: ignore
        else:
            super()._load_best_model()


@torch.no_grad()
def load_weights(model: nn.Module, folder: Path) -> None:
    """Fills a model, or a model's adapter, sharded or not, from the safetensors of a folder."""
    held: dict[str, Tensor]
    held = get_peft_model_state_dict(model) if isinstance(model, PeftModel) else model.state_dict()
    for file in sorted(folder.glob("*.safetensors")):
        for name, value in load_file(file).items():
            if name not in held:
                raise UserError(f"{file}: the model has no weight '{name}'")
            local(held[name]).copy_(local(spread(value, held[name])))
