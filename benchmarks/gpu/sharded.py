"""FSDP2 on one rank: it starts, and takes the same step as without it."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import yaml
from accelerate import DistributedType, PartialState
from accelerate.state import AcceleratorState

from benchmarks.gpu.step import given
from benchmarks.rows import Row, judged
from benchmarks.step import Clock, World, own_config, own_trainer
from opsd.lm.sharding import is_sharded

CONFIG = Path(__file__).parents[2] / "configs" / "fsdp2.yaml"


def rows(
    device: str, shape: str, asked: int, told: int, completion: int, rollouts: int
) -> Iterator[Row]:
    """The ratio is the relative difference of loss and gradient norm from the unsharded ones, in
    float32, where they are equal up to rounding. Leaves the environment of a launched process
    behind."""
    made = given(device, shape, asked, told, completion, rollouts)
    world = replace(made, dtype=torch.float32)
    whole, _ = stepped(world)
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ.update(launched())
    try:
        shards, seconds = stepped(world, sharded=True)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    off = max(abs(shards[x] - whole[x]) / max(abs(whole[x]), 1e-12) for x in whole)
    yield judged(
        "sharded",
        None,
        apart=off,
        shape=shape,
        completion=completion,
        rollouts=rollouts,
        whole=whole,
        sharded=shards,
        step_s=seconds,
    )


def launched() -> dict[str, str]:
    """The environment that `accelerate launch` sets for the only rank of an FSDP2 run."""
    settings = dict(yaml.safe_load(CONFIG.read_text("utf-8"))["fsdp_config"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        settings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": probe.getsockname()[1]}
    settings |= {"ACCELERATE_USE_FSDP": True, "WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0}
    # This interface exists on machines without a network.
    settings |= {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}
    return {key.upper(): str(value) for key, value in settings.items()}


def stepped(world: World, sharded: bool = False) -> tuple[dict[str, float], float]:
    """The loss and gradient norm of one step, and its seconds."""
    clock = Clock(world.device)
    with tempfile.TemporaryDirectory() as folder:
        args = own_config(world, folder, 1)
        if sharded and world.device == "cpu":
            # Accelerate shards on GPUs only, PyTorch on any device.
            PartialState().distributed_type = DistributedType.MULTI_GPU
        trainer = own_trainer(world, args)
        trainer.add_callback(clock)
        trainer.train()
    if is_sharded(trainer.model_wrapped) != sharded:
        raise RuntimeError(f"sharded: {not sharded}, where {sharded} was asked for")
    row = next(row for row in trainer.state.log_history if "loss" in row)
    return {key: row[key] for key in ("loss", "grad_norm")}, round(clock.first, 2)
